"""Two films through the eyes of a stream: who is named, who is not, and how often anybody hears of it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import simplejpeg
from blockbuster import blockbuster_ctx

from face_server.domain.events import EventKind
from face_server.domain.frame import Frame
from face_server.domain.image import Pixels

from .watching_parts import STARS, Watch


@pytest.mark.parametrize("fps", [5.0, 0.0], ids=["5 fps", "every frame"])
async def test_the_three_of_the_show_are_named_and_announced_once(watch: Watch, fps: float):
    """Singer, pianist and president are each announced exactly once; the audience gets no names."""
    await watch.enroll_everybody()
    watcher = watch.watcher()

    seen = await watch.see(watcher, watch.stage(fps))

    assert sorted(seen.announced()) == sorted(STARS)
    assert seen.names() == set(STARS)
    counts = watcher.counts
    assert counts.embeddings <= 3 * counts.tracks


@pytest.mark.parametrize("fps", [5.0, 0.0], ids=["5 fps", "every frame"])
async def test_nobody_is_named_in_the_street(watch: Watch, fps: float):
    """Passers-by look up to .39 like somebody enrolled on single frames, and are still nobody."""
    await watch.enroll_everybody()
    watcher = watch.watcher()

    seen = await watch.see(watcher, watch.street(fps))

    assert seen.names() == set()
    assert seen.announced() == []
    counts = watcher.counts
    assert counts.tracks > 10
    assert counts.embeddings <= 3 * counts.tracks


async def test_an_announcement_says_everything(watch: Watch):
    """Who, how sure, where, from when; the crop and the drawn scene; and everybody else who was there."""
    await watch.enroll("obama")
    begun = watch.parts.clock.now()

    seen = await watch.see(watch.watcher(), watch.stage(start_s=7.1, end_s=8.0))
    (event,) = [event for event in seen.events if event.kind is EventKind.PERSON_SEEN]

    assert event.who is not None
    assert (event.who.collection, event.who.identity_id, event.who.stranger_id) == ("default", "obama", "")
    assert event.who.similarity >= event.who.threshold > 0.3
    assert begun <= event.started_at <= event.ended_at <= event.at + 1e-6 <= begun + 0.9
    assert (event.frame_width, event.frame_height) == (640, 360)
    assert event.box is not None
    assert 300 < (event.box.x1 + event.box.x2) / 2 < 400
    assert event.message == "obama was seen on Stage"
    assert simplejpeg.decode_jpeg_header(seen.pictures[event.picture])[:2] == (112, 112)
    assert simplejpeg.decode_jpeg_header(seen.pictures[event.frame_picture])[:2] == (360, 640)
    assert [face.who == event.who for face in event.faces].count(True) == 1
    assert [face.announced for face in event.faces].count(True) == 1
    assert len(event.faces) >= 5
    assert all(face.picture in seen.pictures for face in event.faces if face.picture)


async def test_a_walker_is_announced_within_a_second(watch: Watch):
    """From the first frame that shows somebody to the announcement it takes less than a second of the film."""
    await watch.enroll(*STARS)

    seen = await watch.see(watch.watcher(), watch.stage())
    delays = {
        event.who.name: event.ended_at - event.started_at for event in seen.events if event.who and event.kind is EventKind.PERSON_SEEN
    }

    assert delays.keys() == set(STARS)
    assert max(delays.values()) < 1.0


async def test_a_visit_ends_with_its_times_and_best_picture(watch: Watch):
    """Who was announced leaves once, after the absence time, with the span of the visit and a picture."""
    await watch.enroll("obama")
    watcher = watch.watcher(absence_s=3.0)
    seen = await watch.see(watcher, watch.stage(start_s=7.1, end_s=9.1))
    (arrival,) = [event for event in seen.events if event.kind is EventKind.PERSON_SEEN]

    gone = await watch.wait(watcher, 6)
    (event,) = [event for event in gone.events if event.kind is EventKind.PERSON_LEFT]

    assert event.who is not None
    assert event.who.identity_id == "obama"
    assert arrival.ended_at <= event.started_at < event.ended_at <= arrival.ended_at + 2.0
    assert event.at >= event.ended_at + 3.0
    assert simplejpeg.decode_jpeg_header(gone.pictures[event.picture])[:2] == (112, 112)
    assert event.box is not None
    assert (event.frame_width, event.frame_height) == (640, 360)


async def test_coming_back_soon_is_not_announced_again_unless_asked_for(watch: Watch):
    """A second visit within the re-alert time stays silent; with the rule it is announced."""
    await watch.enroll("obama")
    for on_return, expected in ((False, 1), (True, 2)):
        watcher = watch.watcher(absence_s=2.0, realert_s=60.0, realert_on_return=on_return)
        first = await watch.see(watcher, watch.stage(start_s=7.1, end_s=9.1))
        await watch.wait(watcher, 5)
        second = await watch.see(watcher, watch.stage(start_s=7.1, end_s=9.1))

        assert (first.announced() + second.announced()) == ["obama"] * expected


async def test_one_alert_mutes_nobody_else(watch: Watch):
    """The president, announced in the first second, does not silence whoever is recognised next to him later."""
    await watch.enroll("lin_manuel_miranda", "obama")
    watcher = watch.watcher(realert_s=3600.0)

    seen = await watch.see(watcher, watch.stage())

    assert seen.announced() == ["lin_manuel_miranda", "obama"]


async def test_two_faces_of_a_frame_are_never_the_same_person(watch: Watch):
    """A picture that shows the same man twice names one of the two, and the same one all the time."""
    await watch.enroll("lin_manuel_miranda")
    watcher = watch.watcher(strangers=False)

    seen = await watch.see(watcher, map(doubled, watch.stage(start_s=3.0, end_s=6.9)))
    bearers = [[one.track.id for one in look.tracks if one.who] for look in seen.looks[3:]]

    assert all(len([one for one in look.tracks if not one.track.missed]) == 2 for look in seen.looks[3:])
    assert all(len(tracks) == 1 for tracks in bearers)
    assert len({tracks[0] for tracks in bearers}) == 1
    assert seen.announced() == ["lin_manuel_miranda"]


async def test_faces_are_cropped_from_the_larger_picture(watch: Watch):
    """A face of 25 px on the small picture is named by its 100 px on the large one, in the large one's pixels."""
    await watch.enroll("lin_manuel_miranda")
    rules = {"min_face_px": 16.0, "detection_size_px": 320, "strangers": False}
    named = {}
    for url in ("", "rtsp://camera/large"):
        small = (shrunk(frame, 160, 90, detail=bool(url)) for frame in watch.stage(start_s=3.0, end_s=5.0))
        watcher = watch.watcher(detail_url=url, **rules)
        named[url] = await watch.see(watcher, small)

    (event,) = [event for event in named["rtsp://camera/large"].events if event.kind is EventKind.PERSON_SEEN]
    assert (event.frame_width, event.frame_height) == (640, 360)
    assert event.box is not None
    assert event.box.width > 40
    similar = {
        url: max((one.who.similarity for look in seen.looks for one in look.tracks if one.who), default=0) for url, seen in named.items()
    }
    assert similar["rtsp://camera/large"] > similar[""] + 0.05


async def test_strangers_are_announced_with_stable_ids(watch: Watch):
    """Passers-by have no names: each stranger keeps one id, two of them never share one, and each is announced once."""
    await watch.enroll_everybody()
    seen = await watch.see(watch.watcher(), watch.street())
    strangers = [{one.who.stranger_id: one.track.id for one in look.tracks if one.who and one.who.stranger_id} for look in seen.looks]
    announced = seen.announced(EventKind.STRANGER_SEEN)

    assert len(announced) == len(set(announced)) >= 3
    for look in seen.looks:
        here = [one.who.key for one in look.tracks if one.who]
        assert len(here) == len(set(here))
    by_track: dict[int, set[str]] = {}
    for frame in strangers:
        for stranger, track in frame.items():
            by_track.setdefault(track, set()).add(stranger)
    assert all(len(known) == 1 for known in by_track.values())


async def test_a_stranger_is_known_again_in_another_stream(watch: Watch):
    """The same show on a second camera brings the same strangers, not new ones."""
    first = await watch.see(watch.watcher(), watch.stage(start_s=7.1, end_s=9.1))
    known = {event.who.stranger_id for event in first.events if event.who}
    second = await watch.see(watch.watcher(), watch.stage(start_s=7.1, end_s=9.1))

    assert known
    assert {event.who.stranger_id for event in second.events if event.who} == known


async def test_a_stranger_who_gets_a_name_is_not_announced_again(watch: Watch):
    """The visit goes on under the name, and ends as that person's."""
    watcher = watch.watcher(absence_s=3.0)
    film = list(watch.stage(start_s=3.0, end_s=6.9))
    before = await watch.see(watcher, film[:8])
    (stranger,) = [event.who for event in before.events if event.who]

    identity = await watch.parts.strangers.name(stranger.stranger_id, collection="default", name="Lin")
    after = await watch.see(watcher, film[8:])
    gone = await watch.wait(watcher, 6)

    assert after.events == []
    assert after.names() == {"Lin"}
    (left,) = gone.events
    assert left.kind is EventKind.PERSON_LEFT
    assert left.who is not None
    assert left.who.identity_id == identity.id


async def test_a_dismissed_stranger_does_not_come_back_at_once(watch: Watch):
    """Who was dismissed while in view is not remembered anew on the next frame."""
    watcher = watch.watcher(embed_budget=2)
    film = list(watch.stage(start_s=3.0, end_s=6.9))
    before = await watch.see(watcher, film[:8])
    (stranger,) = [event.who for event in before.events if event.who]

    await watch.parts.strangers.dismiss(stranger.stranger_id)
    after = await watch.see(watcher, film[8:])

    assert all(one.who is None for one in after.looks[-1].tracks)
    assert after.events == []


async def test_without_the_rule_nobody_unknown_is_remembered(watch: Watch):
    """Strangers are off: no events, nothing stored."""
    seen = await watch.see(watch.watcher(strangers=False), watch.stage(start_s=7.1, end_s=9.1))

    assert seen.events == []
    assert await watch.parts.strangers.page() == []


async def test_the_event_loop_is_never_blocked(watch: Watch):
    """Everything that computes or reads files runs in worker threads."""
    await watch.enroll("obama")
    watcher = watch.watcher()
    film = list(watch.stage(start_s=7.1, end_s=8.1))
    with blockbuster_ctx("face_server"):
        seen = await watch.see(watcher, film)

    assert seen.announced() == ["obama"]


def doubled(frame: Frame) -> Frame:
    """The frame twice, side by side."""

    def convert(width: int, height: int) -> Pixels:
        half = frame.pixels((width + 1) // 2, height)
        return np.ascontiguousarray(np.hstack([half, half])[:, :width])

    return _changed(frame, 2 * frame.width, frame.height, convert)


def shrunk(frame: Frame, width: int, height: int, *, detail: bool) -> Frame:
    """The frame as a small one, joined with the large one or enlarged."""
    small = _changed(frame, width, height, lambda w, h: np.asarray(cv2.resize(frame.pixels(width, height), (w, h)), np.uint8))
    return small.with_detail(frame.width, frame.height, frame if detail else None)


def _changed(frame: Frame, width: int, height: int, convert: Callable[[int, int], Pixels]) -> Frame:
    return Frame(
        frame.number, (width, height), convert, captured_at=frame.captured_at, taken_at=frame.taken_at, position_s=frame.position_s
    )

"""Nothing that was decided is lost on its way to the journal, whatever fails or is broken off in between."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest

from face_server.domain.embedding import ModelId
from face_server.domain.events import Event, EventKind
from face_server.domain.face import Detection
from face_server.domain.identity import Collection
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import DetectHere, Detector
from face_server.domain.tracks import SeenTrack
from face_server.video.scene import draw_scene

from .watching_parts import Watch

SINGER, PRESIDENT = "lin_manuel_miranda", "obama"


class Pencil:
    """Draws, unless it is held or broken."""

    def __init__(self) -> None:
        self.drawing = threading.Event()
        self.free = threading.Event()
        self.broken = 0

    def __call__(self, pixels: Pixels, tracks: Sequence[SeenTrack], footer: str) -> Pixels:
        """See ``DrawScene``."""
        self.drawing.set()
        assert self.free.wait(10)
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the pencil broke")
        return draw_scene(pixels, tracks, footer)


async def test_an_announcement_that_is_broken_off_is_made_with_the_next_frame(watch: Watch):
    """A connection that ends while the picture of somebody is drawn takes the picture along, not the event."""
    await watch.enroll(PRESIDENT)
    pencil = Pencil()
    watcher = watch.watcher_with(draw=pencil)
    drawing = asyncio.create_task(asyncio.to_thread(pencil.drawing.wait, 30))
    events = []
    for frame in watch.stage(start_s=7.1, end_s=9.0):
        await watch.parts.clock.advance(frame.captured_at - watch.parts.clock.monotonic())
        looking = asyncio.create_task(watcher.look(frame))
        await asyncio.wait({looking, drawing}, return_when=asyncio.FIRST_COMPLETED)
        if not looking.done() and not pencil.free.is_set():
            looking.cancel()
            await asyncio.wait({looking})
            pencil.free.set()
            assert looking.cancelled()
        else:
            events += (await looking).events

    assert [event.who.name for event in events if event.kind is EventKind.PERSON_SEEN and event.who] == [PRESIDENT]


async def test_a_picture_that_cannot_be_drawn_costs_the_picture_only(watch: Watch):
    """The error is told once; the event comes with the next frame."""
    await watch.enroll(PRESIDENT)
    pencil = Pencil()
    pencil.free.set()
    pencil.broken = 1
    watcher = watch.watcher_with(draw=pencil)
    events, errors = [], 0
    for frame in watch.stage(start_s=7.1, end_s=9.0):
        await watch.parts.clock.advance(frame.captured_at - watch.parts.clock.monotonic())
        try:
            events += (await watcher.look(frame)).events
        except RuntimeError:
            errors += 1

    assert errors == 1
    assert [event.who.name for event in events if event.kind is EventKind.PERSON_SEEN and event.who] == [PRESIDENT]


async def test_whoever_is_in_view_leaves_when_nobody_looks_any_more(watch: Watch):
    """Each announced visit ends once, when its person was last seen; who comes back soon is not announced again."""
    await watch.enroll(PRESIDENT)
    watcher = watch.watcher(strangers=False)
    film = list(watch.stage(start_s=7.1, end_s=9.0))
    seen = await watch.see(watcher, film[:-2])
    last_at = watch.parts.clock.now()

    left = watcher.leave()
    again = await watch.see(watcher, film[-2:])

    assert seen.announced() == [PRESIDENT]
    (event,) = left.events
    assert (event.kind, event.ended_at) == (EventKind.PERSON_LEFT, pytest.approx(last_at, abs=0.5))
    assert event.box is not None
    assert again.events == []
    assert watcher.leave().events == ()


async def test_a_restart_announces_nobody_twice(watch: Watch):
    """New eyes go on from what is stored: who is still here is not announced again, and leaves in the end."""
    await watch.enroll(PRESIDENT)
    film = list(watch.stage(start_s=7.1, end_s=9.0))
    before = await watch.see(watch.watcher(strangers=False), film[:-3])

    async def recall(stream_id: str) -> Sequence[Event]:
        assert stream_id == "door"
        return before.events

    watcher = watch.watcher_with(recall=recall, strangers=None)
    after = await watch.see(watcher, film[-3:])
    gone = await watch.wait(watcher, 8)

    assert before.announced() == [PRESIDENT]
    assert after.names() == {PRESIDENT}
    assert after.events == []
    assert gone.announced(EventKind.PERSON_LEFT) == [PRESIDENT]


async def test_who_left_while_the_service_was_down_is_told(watch: Watch):
    """After a crash the visit that was open ends when its person was last known to be there."""
    await watch.enroll(PRESIDENT)
    before = await watch.see(watch.watcher(strangers=False), watch.stage(start_s=7.1, end_s=8.5))
    await watch.parts.clock.advance(3600)

    async def recall(_stream_id: str) -> Sequence[Event]:
        return before.events

    gone = await watch.wait(watch.watcher_with(recall=recall), 1)

    (event,) = gone.events
    assert (event.kind, event.ended_at) == (EventKind.PERSON_LEFT, before.events[0].ended_at)


class Slow:
    """A detector whose first picture takes until it is set free."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.at_work = threading.Event()
        self.free = threading.Event()
        self.at_once = 0
        self.most_at_once = 0

    def runner(self) -> DetectHere | None:
        """See ``Detector.runner``."""
        detect = self._detector.runner()
        assert detect is not None

        def here(image: Image, min_score: float, max_size_px: int) -> list[Detection]:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.at_work.set()
            assert self.free.wait(10)
            self.at_once -= 1
            return list(detect(image, min_score, max_size_px))

        return here


async def test_a_pass_that_was_broken_off_and_the_next_one_do_not_meet(watch: Watch):
    """A thread cannot be cancelled: the frame of the next connection waits for it, and tracks stay whole."""
    slow = Slow(watch.parts.tools.detector)
    watcher = watch.watcher_with(detector=slow)
    film = list(watch.stage(start_s=3.0, end_s=4.0))
    broken_off = asyncio.create_task(watcher.look(film[0]))
    assert await asyncio.to_thread(slow.at_work.wait, 10)
    broken_off.cancel()
    await asyncio.wait({broken_off})
    looking = asyncio.create_task(watcher.look(film[1]))
    await asyncio.sleep(0.1)
    slow.free.set()
    look = await looking

    assert slow.most_at_once == 1
    assert look.tracks
    assert {one.track.hits for one in look.tracks} >= {2}


async def test_strangers_of_another_model_are_said_once(watch: Watch, caplog: pytest.LogCaptureFixture):
    """After a change of the model people are still named; status and log say in one sentence why nobody unknown is remembered."""
    await watch.enroll(SINGER)
    await watch.parts.gallery.create_collection(Collection("strangers", ModelId("other", "0" * 12, 1, 128)))
    watcher = watch.watcher()
    with caplog.at_level(logging.WARNING):
        await watch.see(watcher, watch.street(end_s=2))
        seen = await watch.see(watcher, watch.stage(start_s=3.0, end_s=5.0))

    assert seen.announced() == [SINGER]
    assert watcher.problem.startswith("unknown people are not remembered")
    assert [record.message for record in caplog.records] == [f"stream door: {watcher.problem}"]

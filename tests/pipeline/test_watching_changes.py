"""What may change while a stream is watched: its rules, who is enrolled, and what it depends on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time

import pytest

from face_server.backends.onnx import OnnxBackend
from face_server.backends.scripted import ScriptedBackend
from face_server.domain.embedding import ModelId
from face_server.domain.events import EventKind
from face_server.domain.identity import Collection, RemoveIdentity
from face_server.domain.streams import Polygon, Schedule, Window
from face_server.errors import Overloaded
from face_server.models.embedder import NetworkEmbedder
from face_server.models.weights import WeightsStore

from .watching_parts import Seen, Watch, spec

SINGER, PRESIDENT = "lin_manuel_miranda", "obama"


def ids(seen: Seen) -> list[set[int]]:
    """Frame by frame, the tracks in view."""
    return [{one.track.id for one in look.tracks} for look in seen.looks]


async def test_collections_may_change_while_somebody_is_in_view(watch: Watch):
    """The name goes and comes with the collection, at once; the track stays the same throughout."""
    await watch.enroll(SINGER)
    watcher = watch.watcher()
    film = list(watch.stage(start_s=3.0, end_s=6.0))

    named = await watch.see(watcher, film[:5])
    watcher.change(spec(collections=()))
    nameless = await watch.see(watcher, film[5:6])
    watcher.change(spec())
    again = await watch.see(watcher, film[6:])

    assert named.named()[-1] == again.named()[0] == {SINGER}
    assert nameless.names() == set()
    assert ids(named)[-1] == ids(nameless)[0] == ids(again)[0]
    assert again.announced() == []


async def test_thresholds_may_change_while_somebody_is_in_view(watch: Watch):
    """A threshold that nobody reaches takes names away at the next frame, and gives them back when it goes."""
    await watch.enroll(SINGER)
    watcher = watch.watcher()
    film = list(watch.stage(start_s=3.0, end_s=6.0))

    await watch.see(watcher, film[:5])
    watcher.change(spec(threshold=0.99))
    strict = await watch.see(watcher, film[5:6])
    watcher.change(spec())
    usual = await watch.see(watcher, film[6:])

    assert strict.names() == set()
    assert usual.named()[0] == {SINGER}


async def test_tracks_survive_another_detection_size(watch: Watch):
    """Faces are followed at a size of their own, so ids stay when the detector looks closer."""
    await watch.enroll(SINGER)
    watcher = watch.watcher()
    film = list(watch.street(start_s=0.0, end_s=2.0))

    before = await watch.see(watcher, film[:5])
    watcher.change(spec(detection_size_px=960))
    after = await watch.see(watcher, film[5:])

    assert len(ids(before)[-1] & ids(after)[0]) >= 4


async def test_faces_count_by_where_they_are_and_how_large(watch: Watch):
    """Regions, ignored regions and the least size decide who is followed, from the next frame on."""
    left = Polygon(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
    sides = {}
    for name, rules in {"all": {}, "left": {"regions": (left,)}, "right": {"ignore": (left,)}, "large": {"min_face_px": 90.0}}.items():
        seen = await watch.see(watch.watcher(**rules), watch.street(end_s=0.1))
        sides[name] = [one.track.detection.box for one in seen.looks[0].tracks]

    assert len(sides["left"]) + len(sides["right"]) == len(sides["all"]) >= 6
    assert all((box.x1 + box.x2) / 2 < 960 for box in sides["left"])
    assert all((box.x1 + box.x2) / 2 >= 960 for box in sides["right"])
    assert 0 < len(sides["large"]) < len(sides["all"])
    assert all(min(box.width, box.height) >= 90 for box in sides["large"])


async def test_the_embedding_budget_is_kept(watch: Watch):
    """With a budget of one, no track is embedded twice."""
    watcher = watch.watcher(embed_budget=1)

    await watch.see(watcher, watch.street(0.0))

    assert 0 < watcher.counts.embeddings <= watcher.counts.tracks


async def test_outside_of_the_schedule_nothing_is_analysed(watch: Watch):
    """Frames at other times cost nothing; who was in view when the time was over, leaves."""
    await watch.enroll(SINGER)
    now = watch.parts.clock.now()
    ends = datetime.fromtimestamp(now + 2.0, UTC)
    schedule = Schedule((Window(frozenset(range(7)), time(0, 0), ends.timetz().replace(tzinfo=None)),))
    watcher = watch.watcher(schedule=schedule, absence_s=3.0)

    seen = await watch.see(watcher, watch.stage(start_s=3.0, end_s=6.9))

    assert watcher.counts.frames == 10
    assert all(look.tracks == () for look in seen.looks[10:])
    assert seen.announced() == [SINGER]
    assert seen.announced(EventKind.PERSON_LEFT) == []
    assert (await watch.wait(watcher, 4)).announced(EventKind.PERSON_LEFT) == [SINGER]


async def test_who_is_enrolled_while_in_view_is_named_without_a_new_embedding(watch: Watch):
    """Within the time of a review the stored embeddings are asked again."""
    watcher = watch.watcher(embed_budget=2, strangers=False)
    film = list(watch.stage(start_s=7.1, end_s=9.1))

    before = await watch.see(watcher, film[:4])
    embeddings = watcher.counts.embeddings
    await watch.enroll(PRESIDENT)
    watcher_after = await watch.see(watcher, film[4:])
    later = await watch.see(watcher, watch.stage(start_s=8.5, end_s=9.1))

    assert before.names() == set()
    assert (watcher_after.announced() + later.announced()) == [PRESIDENT]
    assert embeddings > 0


async def test_who_is_erased_while_in_view_loses_the_name(watch: Watch):
    """Within the time of a review the label is gone, and it does not come back."""
    await watch.enroll(SINGER)
    watcher = watch.watcher(strangers=False)
    film = list(watch.stage(start_s=3.0, end_s=6.9))

    await watch.see(watcher, film[:5])
    await watch.parts.gallery.apply("default", [RemoveIdentity(SINGER)])
    after = await watch.see(watcher, film[5:])

    assert all(names == set() for names in after.named()[11:])
    assert len(after.looks) > 13


async def test_a_missing_collection_is_said_and_found_once_it_exists(watch: Watch, caplog: pytest.LogCaptureFixture):
    """The stream goes on; the log says it once; creating the collection is enough."""
    watcher = watch.watcher(collections=("vips", "default"))
    film = list(watch.stage(start_s=3.0, end_s=6.9))
    with caplog.at_level(logging.WARNING):
        await watch.see(watcher, film[:8])

    assert watcher.problem == "collection 'vips' does not exist"
    assert [record.message for record in caplog.records] == ["stream door: collection 'vips' does not exist"]

    await watch.parts.gallery.create_collection(Collection("vips", watch.parts.tools.embedder.model))
    await watch.enroll(SINGER, collection="vips")
    seen = await watch.see(watcher, film[8:])

    assert watcher.problem == ""
    assert [event.who.collection for event in seen.events if event.who and event.kind is EventKind.PERSON_SEEN] == ["vips"]


async def test_a_collection_of_another_model_is_left_out(watch: Watch):
    """It is named as the problem, and the others are searched all the same."""
    await watch.enroll(SINGER)
    await watch.parts.gallery.create_collection(Collection("old", ModelId("other", "0" * 12, 1, 128)))
    watcher = watch.watcher(collections=("old", "default"))

    seen = await watch.see(watcher, watch.stage(start_s=3.0, end_s=4.0))

    assert seen.announced() == [SINGER]
    assert watcher.problem == "collection 'old' holds embeddings of another model"


async def test_the_nearest_of_several_collections_names(watch: Watch):
    """Somebody enrolled elsewhere does not stand in the way, whatever the order."""
    await watch.parts.gallery.create_collection(Collection("staff", watch.parts.tools.embedder.model))
    await watch.enroll(SINGER, collection="staff")
    await watch.enroll(PRESIDENT, "biden")
    for collections in (("default", "staff"), ("staff", "default")):
        seen = await watch.see(watch.watcher(collections=collections, margin=0.1), watch.stage(start_s=3.0, end_s=4.0))
        assert [(event.who.collection, event.who.name) for event in seen.events if event.who and event.who.identity_id] == [
            ("staff", SINGER)
        ]


async def test_tracks_go_on_while_embeddings_cannot_be_computed(watch: Watch, weights: WeightsStore):
    """An overloaded embedder costs time, not the track: who it is comes out as soon as it works again."""
    await watch.enroll(SINGER)
    network = weights.pull("sface")
    backend = await OnnxBackend.open([network], watch.parts.workers)
    run = backend.runner("sface")
    assert run is not None
    flaky = ScriptedBackend({"sface": run})
    flaky.fail("sface", Overloaded("the queue of sface is full"), times=5)
    watcher = watch.watcher_with(embedder=NetworkEmbedder(weights.entry("sface"), network, flaky))
    film = list(watch.stage(start_s=3.0, end_s=6.0))

    before = await watch.see(watcher, film[:5])
    problem = watcher.problem
    after = await watch.see(watcher, film[5:])
    await backend.close()

    assert problem == "the queue of sface is full"
    assert before.names() == set()
    assert after.announced() == [SINGER]
    assert ids(before)[0] <= ids(after)[-1]
    assert watcher.problem == ""


async def test_a_gallery_that_is_away_does_not_end_the_watching(watch: Watch):
    """Tracks are still shown, and the reason is there to be read."""
    watcher = watch.watcher()
    await watch.parts.gallery.close()

    seen = await watch.see(watcher, watch.stage(start_s=3.0, end_s=4.0))

    assert all(look.tracks for look in seen.looks)
    assert watcher.problem == "the gallery is closed"

"""The supervisor: every state, every failure, and never one camera's trouble in another's stream."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from face_server.domain.events import Event, EventKind
from face_server.domain.frame import Frame
from face_server.domain.streams import Schedule, StreamRules, StreamSpec, StreamState, Window
from face_server.domain.tracks import Look
from face_server.errors import ConfigurationError, NotFound, Overloaded, SourceFailed, Unavailable
from face_server.streams.supervisor import Supervisor, SupervisorOptions


async def test_a_stream_starts_runs_and_is_described(world, supervisor: Supervisor, spec: StreamSpec) -> None:
    """Starting, then running, with size, codec, rates, counters and latency."""
    world.camera(fps=25, delay_s=0.03)
    await supervisor.start(spec)
    assert supervisor.status("door").state is StreamState.STARTING
    await world.pass_time(12, 0.04)
    status = supervisor.status("door")
    assert status.state is StreamState.RUNNING
    assert status.connected
    assert (status.width, status.height, status.codec) == (320, 180, "synthetic")
    assert status.source_fps == pytest.approx(25, abs=0.5)
    assert status.analysed_fps == pytest.approx(5, abs=0.3)
    assert status.decoded == pytest.approx(300, abs=3)
    assert status.analysed == pytest.approx(60, abs=2)
    assert (status.dropped, status.stale, status.attempts, status.reconnects) == (0, 0, 0, 0)
    assert status.last_frame_age_s is not None
    assert status.last_frame_age_s < 0.1
    assert status.latency_s == pytest.approx(0.03, abs=0.001)
    assert status.last_analysed_at == pytest.approx(world.clock.now(), abs=0.3)


async def test_a_camera_that_dies_and_returns_is_analysed_again_within_three_seconds(world, supervisor, spec) -> None:
    """One watcher sees both, with one event for the loss and one for the return."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(15)
    camera.die()
    await world.pass_time(0.1)
    status = supervisor.status("door")
    assert (status.state, status.code, status.connected) == (StreamState.BACKING_OFF, "source_lost", False)
    await world.pass_time(20)
    assert supervisor.status("door").code == "source_unreachable"
    assert world.kinds() == [EventKind.STREAM_LOST]
    assert 3.0 <= world.events[0].at - world.events[0].started_at <= 4.0
    camera.heal()
    returned = world.clock.now()
    await world.pass_time(3)
    status = supervisor.status("door")
    assert status.state is StreamState.RUNNING
    assert status.last_analysed_at > returned
    assert status.reconnects == 1
    await world.pass_time(3)
    assert world.kinds() == [EventKind.STREAM_LOST, EventKind.STREAM_RECOVERED]
    assert "Front door" in world.events[0].message
    assert len(world.watchers) == 1


async def test_a_frozen_camera_is_noticed_within_five_seconds(world, supervisor, spec) -> None:
    """Stalled after 2 s, lost before 5 s, though the source itself says nothing for an hour."""
    camera = world.camera(read_timeout_s=3600)
    await supervisor.start(spec)
    await world.pass_time(5)
    camera.freeze()
    await world.pass_time(2.5)
    status = supervisor.status("door")
    assert (status.state, status.connected, status.code) == (StreamState.STALLED, True, "source_stalled")
    await world.pass_time(2.5)
    assert not supervisor.status("door").connected
    assert supervisor.status("door").code == "source_timeout"
    camera.heal()
    await world.pass_time(8)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_a_short_stall_keeps_the_connection(world, supervisor, spec) -> None:
    """Three seconds without frames are shown and forgotten."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(5)
    camera.freeze()
    await world.pass_time(2.6)
    camera.heal()
    await world.pass_time(1)
    status = supervisor.status("door")
    assert (status.state, status.reconnects, camera.opened) == (StreamState.RUNNING, 0, 1)
    assert world.kinds() == []


async def test_garbage_is_noticed_and_survived(world, supervisor, spec) -> None:
    """A connection that brings nothing decodable is given up within 5 s."""
    camera = world.camera()
    camera.garble()
    await supervisor.start(spec)
    await world.pass_time(5)
    assert supervisor.status("door").last_error
    camera.heal()
    await world.pass_time(6)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_a_new_size_goes_on(world, supervisor, spec) -> None:
    """A camera that changes its size in the middle keeps its connection."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(2)
    camera.resize(640, 480)
    await world.pass_time(2)
    status = supervisor.status("door")
    assert (status.width, status.height, camera.opened) == (640, 480, 1)


async def test_a_flapping_source_slows_down(world, supervisor, spec) -> None:
    """It opens and dies at once for ten minutes: fewer than 60 connections, one lost stream at most."""
    camera = world.camera()
    camera.garbled = True
    await supervisor.start(spec)
    for _ in range(1200):
        await world.pass_time(0.5, 0.25)
        camera.hang_up()
    assert 10 < camera.opened < 60
    assert supervisor.status("door").attempts > 10
    assert world.kinds() == []


async def test_refused_credentials_are_named_and_tried_slowly(world, supervisor, spec) -> None:
    """State failed, at most two tries in the first minute and a half, and running once they are right again."""
    camera = world.camera()
    camera.refuse_credentials()
    await supervisor.start(spec)
    await world.pass_time(50, 0.25)
    status = supervisor.status("door")
    assert (status.state, status.code, camera.opened) == (StreamState.FAILED, "source_credentials", 1)
    assert "credentials" in status.reason
    camera.heal()
    await supervisor.restart("door")
    await world.pass_time(2)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_a_password_changed_under_a_running_stream_fails(world, supervisor, spec) -> None:
    """It fails by name and comes back by itself once the password is right."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(12)
    camera.refuse_credentials()
    camera.hang_up()
    await world.pass_time(30, 0.25)
    assert supervisor.status("door").state is StreamState.FAILED
    assert 2 <= camera.opened <= 5
    camera.heal()
    await world.pass_time(130, 0.25)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_one_trouble_is_not_another_streams(world, supervisor, spec) -> None:
    """Beside a dead, a frozen and a crashing stream, a healthy one loses no frame."""
    world.camera()
    dead, frozen, crashing = (world.camera(f"rtsp://cam/{name}") for name in ("dead", "frozen", "crashing"))
    dead.die()
    frozen.freeze()

    def crash(_frame: Frame) -> Look:
        raise ZeroDivisionError

    await supervisor.start(replace(spec, id="crash", url="rtsp://cam/crashing"))
    await world.pass_time(0.05)
    for watcher in world.watchers:
        watcher.wants = crash
    await supervisor.start(spec)
    await supervisor.start(replace(spec, id="dead", url="rtsp://cam/dead"))
    await supervisor.start(replace(spec, id="frozen", url="rtsp://cam/frozen"))
    await world.pass_time(20)
    states = {status.id: status.state for status in supervisor.statuses()}
    assert states["door"] is StreamState.RUNNING
    assert all(states[name] is not StreamState.RUNNING for name in ("dead", "frozen"))
    assert supervisor.status("door").analysed == pytest.approx(100, abs=3)
    assert crashing.opened > 1


async def test_a_bug_is_logged_and_named(world, supervisor, spec, caplog) -> None:
    """An unexpected error in the watcher: the status says where in the log it is, and the stream tries again with new eyes."""
    world.camera()
    await supervisor.start(spec)
    await world.pass_time(2)

    def crash(_frame: Frame) -> Look:
        raise ZeroDivisionError("a bug")

    world.watchers[0].wants = crash
    with caplog.at_level(logging.ERROR):
        await world.pass_time(0.4)
    status = supervisor.status("door")
    assert status.code == "internal_error"
    log_id = status.last_error.removeprefix("internal error, see log ")
    assert any(log_id in record.message and record.exc_info for record in caplog.records)
    await world.pass_time(20)
    assert len(world.watchers) == 2
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_an_analysis_that_is_away_does_not_cost_the_connection(world, supervisor, spec) -> None:
    """Unavailable and Overloaded pause the analysis, are shown, and pass."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(2)

    def away(_frame: Frame) -> Look:
        raise Unavailable("the network is away")

    world.watchers[0].wants = away
    await world.pass_time(10)
    status = supervisor.status("door")
    assert (status.state, camera.opened) == (StreamState.RUNNING, 1)
    assert "the network is away" in status.reason
    world.watchers[0].wants = lambda _frame: None
    await world.pass_time(7)
    assert supervisor.status("door").reason == ""
    assert len(world.watchers) == 1


async def test_a_look_that_hangs_is_given_up(world, supervisor, spec) -> None:
    """After half a minute the stream says so, and goes on with other eyes."""
    world.camera()
    await supervisor.start(spec)
    await world.pass_time(2)
    world.watchers[0].hangs = asyncio.Event()
    await world.pass_time(32, 0.25)
    assert "took more than 30 s" in supervisor.status("door").last_error
    await world.pass_time(5)
    assert len(world.watchers) == 2
    assert supervisor.status("door").state is StreamState.RUNNING
    world.watchers[0].hangs.set()


async def stopped_in_two_seconds(world, supervisor: Supervisor) -> None:
    """Stop the stream, and say how long that may take."""
    begin = world.clock.monotonic()
    stopping = asyncio.ensure_future(supervisor.stop("door"))
    await world.settle()
    while not stopping.done():
        await world.pass_time(0.05)
    assert world.clock.monotonic() - begin <= 2.0
    await stopping
    status = supervisor.status("door")
    assert (status.state, status.connected) == (StreamState.STOPPED, False)


@pytest.mark.parametrize("trouble", ["none", "freeze", "die", "garble", "refuse_credentials", "never_open", "hang_in_close", "look"])
@pytest.mark.parametrize("after_s", [0.0, 0.1, 3.0, 6.0])
async def test_it_stops_from_every_state_in_two_seconds(world, supervisor, spec, trouble: str, after_s: float) -> None:
    """Whatever the camera, the reader or the analysis does; nothing is left once what hung ends."""
    camera = world.camera()
    if trouble == "never_open":
        camera.never_open()
    await supervisor.start(spec)
    await world.pass_time(1)
    if trouble == "look":
        world.watchers[0].hangs = asyncio.Event()
    elif trouble not in ("none", "never_open"):
        getattr(camera, trouble)()
        if trouble == "refuse_credentials":
            camera.hang_up()
    await world.pass_time(after_s)
    await stopped_in_two_seconds(world, supervisor)
    analysed = supervisor.status("door").decoded
    camera.heal()
    if trouble == "look":
        world.watchers[0].hangs.set()
    await world.pass_time(1)
    assert supervisor.status("door").decoded == analysed
    await supervisor.start(spec)
    await world.pass_time(2)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_the_operators_stop_is_no_loss(world, supervisor, spec) -> None:
    """No event, neither while it is stopped nor when it starts again."""
    world.camera()
    await supervisor.start(spec)
    await world.pass_time(5)
    await supervisor.stop("door")
    await world.pass_time(20)
    await supervisor.start(spec)
    await world.pass_time(5)
    assert world.kinds() == []


async def test_rules_change_without_losing_connection_or_tracks(world, supervisor, spec) -> None:
    """The same watcher is told; the analysed rate follows."""
    camera = world.camera(fps=20)
    await supervisor.start(spec)
    await world.pass_time(5)
    changed = replace(spec, collections=("staff",), rules=replace(spec.rules, max_fps=2.0))
    await supervisor.start(changed)
    before = supervisor.status("door").analysed
    await world.pass_time(10)
    assert supervisor.status("door").analysed - before == pytest.approx(20, abs=2)
    assert (camera.opened, len(world.watchers)) == (1, 1)
    assert world.watchers[0].specs[-1] == changed


async def test_another_source_means_another_connection_and_other_eyes(world, supervisor, spec) -> None:
    """A changed URL connects anew at once, even while the old one is backing off."""
    world.camera().die()
    other = world.camera("rtsp://cam/2")
    await supervisor.start(spec)
    await world.pass_time(30, 0.25)
    await supervisor.start(replace(spec, url="rtsp://cam/2"))
    await world.pass_time(1)
    assert other.opened == 1
    assert supervisor.status("door").state is StreamState.RUNNING
    assert len(world.watchers) == 2


async def test_more_streams_than_the_limit_are_refused(world, spec) -> None:
    """The limit is stated; a stopped stream makes room, a change of a running one is none more."""
    world.camera()
    supervisor = world.supervisor(SupervisorOptions(max_streams=2))
    results = await asyncio.gather(*(supervisor.start(replace(spec, id=str(number))) for number in range(3)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 1
    assert refused[0].code == "too_many_streams"
    assert "2 streams" in refused[0].message
    await supervisor.start(replace(spec, id="0", name="other"))
    await supervisor.stop("0")
    await supervisor.start(replace(spec, id="2"))
    await supervisor.close()


async def test_unknown_streams_are_not_found(supervisor) -> None:
    """Every method says so."""
    for call in (supervisor.stop, supervisor.forget, supervisor.restart, supervisor.snapshot):
        with pytest.raises(NotFound):
            await call("nobody")
    with pytest.raises(NotFound):
        supervisor.status("nobody")
    with pytest.raises(NotFound):
        supervisor.preview("nobody")


async def test_forgetting_and_registering_at_once_leaves_one(world, supervisor, spec) -> None:
    """The new stream runs, the old one is gone."""
    camera = world.camera()
    camera.hang_in_close()
    await supervisor.start(spec)
    await world.pass_time(1)
    both = asyncio.gather(supervisor.forget("door"), supervisor.start(replace(spec, name="new")))
    await world.pass_time(4)
    await both
    assert supervisor.status("door").state is StreamState.RUNNING
    assert sum(task.get_name() == "stream door" for task in asyncio.all_tasks()) == 1
    camera.heal()
    await supervisor.forget("door")
    assert supervisor.statuses() == []


async def test_readers_that_never_end_are_bounded(world, supervisor, spec) -> None:
    """After eight parts that do not end the stream says so instead of making more, and runs once they did."""
    camera = world.camera()
    camera.never_open()
    await supervisor.start(spec)
    await world.pass_time(600, 0.25)
    status = supervisor.status("door")
    assert (status.state, status.code) == (StreamState.FAILED, "source_stuck")
    assert camera.opened == 8
    camera.heal()
    await supervisor.restart("door")
    await world.pass_time(3)
    assert supervisor.status("door").state is StreamState.RUNNING


async def test_events_wait_for_the_journal_in_order(world, supervisor, spec) -> None:
    """While it is away the analysis goes on; then all of them are stored, once each, as they happened."""
    world.camera()
    await supervisor.start(spec)
    await world.pass_time(1)
    away = True

    def refuse(_spec: StreamSpec, _look: Look) -> None:
        if away:
            raise Unavailable("the disk is full")

    def happen(frame: Frame) -> Look:
        return Look(events=(Event(f"e{frame.number}", EventKind.PERSON_SEEN, "door", 1.0, 1.0, 1.0),))

    world.publish = refuse
    world.watchers[0].wants = happen
    await world.pass_time(10)
    assert world.events == []
    status = supervisor.status("door")
    assert "the disk is full" in status.reason
    assert status.analysed == pytest.approx(55, abs=3)
    away, world.watchers[0].wants = False, lambda _frame: None
    await world.pass_time(6)
    numbers = [int(event.id[1:]) for event in world.events]
    assert len(numbers) == pytest.approx(50, abs=3)
    assert numbers == sorted(set(numbers))
    assert supervisor.status("door").reason == ""


async def test_time_passes_while_the_camera_is_away(world, supervisor, spec) -> None:
    """The watcher hears about it each second, never beside a look."""
    camera = world.camera()
    await supervisor.start(spec)
    await world.pass_time(3)
    assert world.watchers[0].passed == 0
    camera.die()
    await world.pass_time(10)
    assert world.watchers[0].passed >= 8


async def test_outside_its_schedule_a_stream_rests(world, supervisor, spec) -> None:
    """Connected and decoded, but not analysed, and it says why."""
    world.camera()
    hour = Schedule((Window(frozenset(range(7)), *_window(world.clock.now() + 7200)),))
    await supervisor.start(replace(spec, rules=StreamRules(schedule=hour)))
    await world.pass_time(5)
    status = supervisor.status("door")
    assert (status.state, status.analysed) == (StreamState.RUNNING, 0)
    assert status.decoded > 40
    assert "schedule" in status.reason


def _window(unix_s: float):
    begin = datetime.fromtimestamp(unix_s, UTC)
    return begin.time(), (begin + timedelta(minutes=5)).time()


async def test_a_camera_that_always_lags_says_so(world, supervisor, spec) -> None:
    """Frames older than the staleness budget are counted, not analysed, and the reason is readable."""
    world.camera(delay_s=0.8)
    await supervisor.start(spec)
    await world.pass_time(5)
    status = supervisor.status("door")
    assert status.analysed == 0
    assert status.stale > 10
    assert "staleness_s" in status.reason


async def test_a_file_ends_after_its_last_frame(world, supervisor, spec) -> None:
    """Each frame is analysed; then the stream is stopped and says why, and a restart reads it again."""
    camera = world.camera("clip.mp4", live=False, frames=30, own_thread=True, fps=25.0)
    await supervisor.start(replace(spec, url="clip.mp4", rules=StreamRules(max_fps=0)))
    for _ in range(400):
        await asyncio.sleep(0.005)
        await world.pass_time(0.01, 0.01)
        if supervisor.status("door").code == "source_ended":
            break
    status = supervisor.status("door")
    assert (status.state, status.code) == (StreamState.STOPPED, "source_ended")
    assert [frame.number for frame in world.watchers[0].frames] == list(range(30))
    assert (status.analysed, status.dropped) == (30, 0)
    await supervisor.restart("door")
    await world.settle()
    assert camera.opened == 2


async def test_faces_come_from_the_larger_picture(world, supervisor, spec) -> None:
    """Frames have the size of the detail, their thumbnails cost the small one; without detail the stream goes on."""
    world.camera(width=320, height=180)
    detail = world.camera("rtsp://cam/large", width=1280, height=720)
    await supervisor.start(replace(spec, detail_url="rtsp://cam/large"))
    await world.pass_time(3)
    frame = world.watchers[0].frames[-1]
    assert (frame.width, frame.height) == (1280, 720)
    assert frame.scaled(320).pixels.shape == (180, 320, 3)
    assert frame.image().pixels.shape == (720, 1280, 3)
    detail.die()
    before = len(world.watchers[0].frames)
    await world.pass_time(10)
    frame = world.watchers[0].frames[-1]
    assert len(world.watchers[0].frames) - before == pytest.approx(50, abs=3)
    assert frame.image().pixels.shape == (720, 1280, 3)
    status = supervisor.status("door")
    assert status.state is StreamState.RUNNING
    assert status.last_error.startswith("detail picture:")


async def test_errors_reveal_no_address(world, supervisor, spec) -> None:
    """What a library says about a URL is masked before anybody reads it."""
    camera = world.camera()
    camera.refuse(SourceFailed("cannot open rtsp://admin:hunter2@10.0.0.7/live", code="source_unreachable"))
    await supervisor.start(spec)
    await world.pass_time(1)
    status = supervisor.status("door")
    assert "hunter2" not in f"{status}"
    assert "10.0.0.7" not in f"{status}"


async def test_a_source_that_cannot_exist_here_needs_a_person(world, supervisor, spec) -> None:
    """What the composition refuses to open is a failure by name."""

    def refuse(_spec: StreamSpec):
        raise ConfigurationError("mode gpu needs an OpenCV with cudacodec", code="no_cudacodec")

    world.camera()
    world.open_watcher = refuse
    await supervisor.start(spec)
    await world.pass_time(1)
    status = supervisor.status("door")
    assert (status.state, status.code) == (StreamState.FAILED, "no_cudacodec")


class View:
    """A published view that remembers what it was given."""

    def __init__(self, spec: StreamSpec, hangs: bool = False) -> None:
        self.spec, self.taken, self.shown, self.closed, self.hangs = spec, 0, 0, False, hangs
        self.state = "publishing"

    def take(self, frame: Frame) -> None:
        """See ``LiveView.take``."""
        assert not self.closed
        self.taken += 1

    def show(self, tracks, frame: Frame) -> None:
        """See ``LiveView.show``."""
        self.shown += 1

    async def close(self) -> None:
        """See ``LiveView.close``."""
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        self.closed = True


async def test_a_published_view_outlives_connections(world, supervisor, spec) -> None:
    """Opened when switched on, fed with every frame, kept while the camera is away, closed when switched off."""
    camera, views = world.camera(), []
    world.open_view = lambda opened: views.append(View(opened)) or views[-1]
    supervisor = world.supervisor()
    published = replace(spec, rules=StreamRules(publish=True))
    await supervisor.start(published)
    await world.pass_time(2)
    assert len(views) == 1
    assert views[0].taken == pytest.approx(20, abs=2)
    assert 8 <= views[0].shown <= 11
    assert supervisor.status("door").publishing == "publishing"
    camera.die()
    await world.pass_time(3)
    camera.heal()
    await world.pass_time(3)
    assert len(views) == 1
    assert not views[0].closed
    await supervisor.start(spec)
    assert views[0].closed
    assert supervisor.status("door").publishing == ""
    await supervisor.start(published)
    assert len(views) == 2
    await supervisor.close()
    assert views[1].closed


async def test_a_view_that_hangs_does_not_hold_up_the_stop(world, spec) -> None:
    """2 s, and the stream is stopped."""
    world.camera()
    world.open_view = lambda opened: View(opened, hangs=True)
    supervisor = world.supervisor()
    await supervisor.start(replace(spec, rules=StreamRules(publish=True)))
    await world.pass_time(1)
    await stopped_in_two_seconds(world, supervisor)
    await supervisor.close()


async def test_publishing_without_an_address_says_so(world, supervisor, spec) -> None:
    """The stream runs all the same."""
    world.camera()
    await supervisor.start(replace(spec, rules=StreamRules(publish=True)))
    await world.pass_time(1)
    status = supervisor.status("door")
    assert status.state is StreamState.RUNNING
    assert "no address" in status.publishing


@pytest.mark.parametrize("ending", ["stop", "another source", "forget", "the service ends", "three bugs"])
async def test_whoever_is_in_view_leaves_when_nobody_looks_any_more(world, supervisor, spec, ending: str) -> None:
    """However the watching ends, the eyes say who left, once, and it is stored."""
    world.camera()
    world.camera("rtsp://cam/2")
    await supervisor.start(spec)
    await world.pass_time(3)
    (watcher,) = world.watchers
    now = world.clock.now()
    watcher.leaves = Look(events=(Event("left", EventKind.PERSON_LEFT, "door", now, now, now),))
    if ending == "stop":
        await _meanwhile(world, supervisor.stop("door"))
    elif ending == "forget":
        await _meanwhile(world, supervisor.forget("door"))
    elif ending == "the service ends":
        await _meanwhile(world, supervisor.close())
    elif ending == "another source":
        await supervisor.start(replace(spec, url="rtsp://cam/2"))
    else:
        watcher.wants = _stumble
    await world.pass_time(12)
    assert world.kinds().count(EventKind.PERSON_LEFT) == 1


def _stumble(_frame: Frame) -> Look:
    raise ZeroDivisionError


async def _meanwhile(world, work) -> None:
    task = asyncio.ensure_future(work)
    while not task.done():
        await world.pass_time(0.05)
    await task


async def test_incomplete_recognition_is_told_while_the_stream_runs(world, supervisor, spec) -> None:
    """The reason and a code of its own, until recognition is complete again; the state stays running."""
    world.camera()
    await supervisor.start(spec)
    await world.pass_time(3)
    world.watchers[0].problem = "collection 'vips' does not exist"
    status = supervisor.status("door")
    assert (status.state, status.code, status.reason) == (
        StreamState.RUNNING,
        "recognition_incomplete",
        "collection 'vips' does not exist",
    )
    world.watchers[0].problem = ""
    assert (supervisor.status("door").code, supervisor.status("door").reason) == ("", "")


@pytest.mark.parametrize("lost", [True, False])
async def test_a_return_is_told_though_the_service_was_restarted_meanwhile(world, spec, lost: bool) -> None:
    """A loss that was stored before the restart is followed by one return; where there was none, nothing is said."""
    world.camera()

    async def was_lost(stream_id: str) -> bool:
        return lost and stream_id == spec.id

    supervisor = Supervisor(replace(world.parts, was_lost=was_lost), world.clock)
    await supervisor.start(spec)
    await world.pass_time(4)
    assert world.kinds() == [EventKind.STREAM_RECOVERED] * lost
    await _meanwhile(world, supervisor.stop(spec.id))
    await supervisor.start(spec)
    await world.pass_time(4)
    await _meanwhile(world, supervisor.close())
    assert len(world.events) == lost

"""The supervisor under any order of troubles and commands."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from face_server.domain.streams import StreamSpec, StreamState
from face_server.errors import NotFound
from face_server.streams.restart import RestartOptions
from face_server.streams.stream import StreamOptions
from face_server.streams.supervisor import SupervisorOptions
from face_server.video.synthetic import SyntheticSource
from face_server.workers import Workers

# Shorter than in life, so that every wait comes to its end within a test.
RESTART = RestartOptions(max_s=8.0, young_s=10.0, slow_s=6.0, slow_max_s=12.0, healthy_s=3.0)
LONGEST_WAIT_S = 12.0 + 10.0 + 5.0
URLS = ("rtsp://cam/1", "rtsp://cam/2")
IDS = ("a", "b", "c")
TROUBLES = ("die", "freeze", "garble", "refuse_credentials", "never_open", "hang_in_close", "hang_up")


class SupervisorMachine(RuleBasedStateMachine):
    """Cameras die, freeze and return while an operator starts, changes, restarts, stops and removes streams."""

    def __init__(self, make_world) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.workers = Workers(1)
        self.world = make_world(self.workers)
        self.should: dict[str, StreamSpec] = {}
        self.known: dict[str, StreamSpec] = {}
        self.runner.run(self._set_up())

    async def _set_up(self) -> None:
        for url in URLS:
            self.world.camera(url, fps=5.0)
        self.supervisor = self.world.supervisor(SupervisorOptions(stream=StreamOptions(restart=RESTART)))

    async def _patiently(self, command: Callable[[], Awaitable[object]], within_s: float) -> None:
        """A command, while time passes; it has ``within_s`` of fake time."""
        begin = self.world.clock.monotonic()
        task = asyncio.ensure_future(command())
        await self.world.settle()
        while not task.done():
            assert self.world.clock.monotonic() - begin < within_s
            await self.world.pass_time(0.1, 0.1)
        await task

    @rule(url=st.sampled_from(URLS), trouble=st.sampled_from(TROUBLES))
    def camera_has(self, url: str, trouble: str) -> None:
        """Something happens to a camera."""
        self.runner.run(self._call(getattr(self.world.cameras[url], trouble)))

    @rule(url=st.sampled_from(URLS), size=st.sampled_from([(64, 36), (320, 180)]))
    def camera_resizes(self, url: str, size: tuple[int, int]) -> None:
        """A camera changes its size."""
        self.runner.run(self._call(lambda: self.world.cameras[url].resize(*size)))

    @rule(url=st.sampled_from(URLS))
    def camera_returns(self, url: str) -> None:
        """A camera is well again."""
        self.runner.run(self._call(self.world.cameras[url].heal))

    @rule(stream_id=st.sampled_from(IDS), url=st.sampled_from(URLS), fps=st.sampled_from([0.0, 2.0]))
    def start(self, stream_id: str, url: str, fps: float) -> None:
        """The operator starts a stream, or changes one that runs."""
        spec = StreamSpec(stream_id, url)
        spec = replace(spec, rules=replace(spec.rules, max_fps=fps))
        self.should[stream_id] = self.known[stream_id] = spec
        self.runner.run(self._patiently(lambda: self.supervisor.start(spec), 2.2))

    @rule(stream_id=st.sampled_from(IDS))
    def stop(self, stream_id: str) -> None:
        """The operator stops a stream."""
        self.should.pop(stream_id, None)
        self.runner.run(self._patiently(lambda: self._known(self.supervisor.stop, stream_id), 2.2))

    @rule(stream_id=st.sampled_from(IDS))
    def restart(self, stream_id: str) -> None:
        """The operator wants a new connection."""
        if stream_id in self.known:
            self.should[stream_id] = self.known[stream_id]
        self.runner.run(self._patiently(lambda: self._known(self.supervisor.restart, stream_id), 2.2))

    @rule(stream_id=st.sampled_from(IDS))
    def remove(self, stream_id: str) -> None:
        """The operator removes a stream."""
        self.should.pop(stream_id, None)
        self.known.pop(stream_id, None)
        self.runner.run(self._patiently(lambda: self._known(self.supervisor.forget, stream_id), 2.8))

    @rule(stream_id=st.sampled_from(IDS), url=st.sampled_from(URLS), again=st.booleans())
    def many_at_once(self, stream_id: str, url: str, again: bool) -> None:
        """Stop, start and restart without waiting for each other: the last start counts."""
        spec = StreamSpec(stream_id, url)
        self.should[stream_id] = self.known[stream_id] = spec

        async def commands() -> None:
            first = asyncio.ensure_future(self._known(self.supervisor.forget if again else self.supervisor.stop, stream_id))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.gather(first, self.supervisor.start(spec), self._known(self.supervisor.restart, stream_id))

        self.runner.run(self._patiently(commands, 5.0))

    @rule()
    def watchers_crash(self) -> None:
        """A bug strikes every watcher once."""

        def crash(_frame: object) -> None:
            for watcher in self.world.watchers:
                watcher.wants = lambda _frame: None
            raise ZeroDivisionError

        for watcher in self.world.watchers:
            watcher.wants = crash

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing else happens."""
        self.runner.run(self.world.pass_time(seconds, 0.1))

    @invariant()
    def one_task_a_stream(self) -> None:
        """Never two owners or two connections of one stream, and no stream under a name that is not known."""
        names = Counter(task.get_name() for task in asyncio.all_tasks(self.runner.get_loop()))
        for stream_id in IDS:
            assert names[f"stream {stream_id}"] <= 1
            assert names[f"connection of {stream_id}"] <= 1
        assert {status.id for status in self.supervisor.statuses()} == set(self.known)

    @invariant()
    def states_tell_what_should_be(self) -> None:
        """Stopped are exactly those that should be, connected ones run, start or stall, failed ones say why."""
        for status in self.supervisor.statuses():
            assert (status.state is StreamState.STOPPED) == (status.id not in self.should)
            if status.connected:
                assert status.state in (StreamState.STARTING, StreamState.RUNNING, StreamState.STALLED)
            if status.state in (StreamState.FAILED, StreamState.BACKING_OFF, StreamState.STALLED):
                assert status.reason
                assert status.code

    def teardown(self) -> None:
        """Once everything is well and time has passed, what should run runs; after the end nothing is left."""
        try:
            self.runner.run(self._ends_well())
        finally:
            self.runner.run(self._abandon())
            self.runner.close()
            self.workers.close()

    async def _ends_well(self) -> None:
        for camera in self.world.cameras.values():
            camera.heal()
        await self.world.pass_time(LONGEST_WAIT_S, 0.1)
        running = {status.id for status in self.supervisor.statuses() if status.state is StreamState.RUNNING}
        assert running == set(self.should)
        sources: list[SyntheticSource] = [source for camera in self.world.cameras.values() for source in camera.connections]
        assert len(sources) == len(self.should)
        await self._patiently(self.supervisor.close, 3.0)
        await self.world.settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not [source for camera in self.world.cameras.values() for source in camera.connections]

    async def _abandon(self) -> None:
        """After a failure: nothing may hold up the next example."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self.world.pass_time(5.0, 0.1)

    @staticmethod
    async def _call(action: Callable[[], object]) -> None:
        action()

    @staticmethod
    async def _known(command: Callable[[str], Awaitable[object]], stream_id: str) -> None:
        try:
            await command(stream_id)
        except NotFound:
            return


def test_any_order_of_troubles_and_commands(make_world) -> None:
    """Never two tasks of one stream, every state legal, every stop in time, nothing lost and nothing left."""
    run_state_machine_as_test(
        lambda: SupervisorMachine(make_world),
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )

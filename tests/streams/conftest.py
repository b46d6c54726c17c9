"""Streams with synthetic cameras, under a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from face_server.clock import FakeClock
from face_server.domain.events import Event, EventKind
from face_server.domain.face import Box, Detection
from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.stream_ports import OpenView
from face_server.domain.streams import StreamSpec, StreamState
from face_server.domain.tracks import Look, SeenTrack, Track
from face_server.errors import SourceFailed
from face_server.streams.parts import StreamParts
from face_server.streams.supervisor import Supervisor, SupervisorOptions
from face_server.video.jpeg import encode_jpeg
from face_server.video.scene import draw_scene, no_signal_card
from face_server.video.synthetic import SyntheticCamera, SyntheticOptions, SyntheticSource
from face_server.workers import Workers


class Watching:
    """Eyes that see one face on every frame, and what the test wants beside: ``wants`` runs in each look."""

    def __init__(self, spec: StreamSpec) -> None:
        self.specs = [spec]
        self.frames: list[Frame] = []
        self.passed = 0
        self.at_once = 0
        self.wants: Callable[[Frame], Look | None] = lambda _frame: None
        self.hangs: asyncio.Event | None = None
        self.leaves = Look()
        self.problem = ""

    async def look(self, frame: Frame) -> Look:
        """See ``Watcher.look``; while it hangs, nobody can cancel it."""
        self.at_once += 1
        assert self.at_once == 1
        try:
            while self.hangs is not None and not self.hangs.is_set():
                try:
                    await self.hangs.wait()
                except asyncio.CancelledError:
                    continue
            await asyncio.sleep(0)
            self.frames.append(frame)
            return self.wants(frame) or Look(tracks=(seen_face(frame),))
        finally:
            self.at_once -= 1

    async def pass_time(self) -> Look:
        """See ``Watcher.pass_time``."""
        assert self.at_once == 0
        self.passed += 1
        return Look()

    def change(self, spec: StreamSpec) -> None:
        """See ``Watcher.change``."""
        self.specs.append(spec)

    def leave(self) -> Look:
        """See ``Watcher.leave``."""
        return self.leaves


def seen_face(frame: Frame) -> SeenTrack:
    """A face in the left upper quarter."""
    box = Box(frame.width * 0.1, frame.height * 0.1, frame.width * 0.4, frame.height * 0.4)
    landmarks = np.full((5, 2), 10, np.float32)
    return SeenTrack(Track(1, Detection(box, 0.9, landmarks), frame.captured_at, frame.captured_at, 1))


@dataclass
class World:
    """Cameras by URL, and what became of their streams."""

    workers: Workers
    clock: FakeClock = field(default_factory=FakeClock)
    cameras: dict[str, SyntheticCamera] = field(default_factory=dict)
    watchers: list[Watching] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    publish: Callable[[StreamSpec, Look], None] = lambda _spec, _look: None
    open_watcher: Callable[[StreamSpec], Watching] | None = None
    open_view: OpenView | None = None

    def camera(self, url: str = "rtsp://cam/1", **options: object) -> SyntheticCamera:
        """A camera at ``url``, whose frames come at their time of the fake clock, exactly."""
        settings = {"fps": 10.0, "own_thread": False, **options}
        self.cameras[url] = SyntheticCamera(self.clock, SyntheticOptions(**settings))  # type: ignore[arg-type]
        return self.cameras[url]

    @property
    def parts(self) -> StreamParts:
        """What streams of this world are made of."""
        return StreamParts(
            self._open_source,
            self._open_watcher,
            self._publish,
            draw_scene,
            no_signal_card,
            self._encode,
            self.workers,
            self._view if self.open_view is not None else None,
        )

    def supervisor(self, options: SupervisorOptions | None = None) -> Supervisor:
        """A supervisor whose chances are always the same."""
        return Supervisor(self.parts, self.clock, options, random.Random(7))

    async def pass_time(self, seconds: float, step_s: float = 0.05) -> None:
        """Let time pass in small steps; after each, everybody has the turns of the loop that they need."""
        for _ in range(max(1, round(seconds / step_s))):
            await self.clock.advance(step_s)
            await self.settle()

    async def settle(self) -> None:
        """Let everybody take the turns of the loop that they need now."""
        for _ in range(15):
            await asyncio.sleep(0)

    def kinds(self) -> list[EventKind]:
        """What happened, in order."""
        return [event.kind for event in self.events]

    def _open_source(self, url: str, _spec: StreamSpec) -> SyntheticSource:
        if url not in self.cameras:
            raise SourceFailed("there is no such camera", code="source_unreachable")
        return self.cameras[url].connect()

    def _open_watcher(self, spec: StreamSpec) -> Watching:
        watcher = self.open_watcher(spec) if self.open_watcher else Watching(spec)
        self.watchers.append(watcher)
        return watcher

    async def _publish(self, spec: StreamSpec, look: Look) -> None:
        self.publish(spec, look)
        self.events.extend(look.events)

    def _view(self, spec: StreamSpec):
        assert self.open_view is not None
        return self.open_view(spec)

    async def _encode(self, pixels: Pixels) -> bytes:
        return await self.workers.run(encode_jpeg, pixels, 80)


@pytest.fixture
def world(workers: Workers) -> World:
    """Nothing but time."""
    return World(workers)


@pytest.fixture
async def supervisor(world: World) -> AsyncIterator[Supervisor]:
    """A supervisor of the world; afterwards no task is left."""
    before = asyncio.all_tasks()
    supervisor = world.supervisor()
    yield supervisor
    closing = asyncio.ensure_future(supervisor.close())
    await world.pass_time(3)
    await closing
    await world.settle()
    assert {task.get_name() for task in asyncio.all_tasks() - before - {asyncio.current_task()}} == set()


@pytest.fixture
def spec() -> StreamSpec:
    """A stream of the camera at rtsp://cam/1."""
    return StreamSpec("door", "rtsp://cam/1", "Front door")


@pytest.fixture
def make_world() -> type[World]:
    """For tests that own their event loop."""
    return World


@pytest.fixture
def states() -> type[StreamState]:
    """Short for the states of a stream."""
    return StreamState

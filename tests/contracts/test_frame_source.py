"""What every source of frames does, wherever its frames come from."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.cameras import CameraStandIn
from face_server.clock import SystemClock
from face_server.domain.frame import Frame
from face_server.domain.stream_ports import FrameSource
from face_server.errors import SourceFailed
from face_server.video.capture import CaptureOptions, PyavSource
from face_server.video.demo_camera import DemoCamera
from face_server.video.synthetic import SyntheticCamera, SyntheticOptions

CLOCK = SystemClock()
OPTIONS = CaptureOptions(open_timeout_s=2.0, read_timeout_s=1.0)
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Camera:
    """A camera of some kind, and how to make it fail."""

    connect: Callable[[], FrameSource]
    freeze: Callable[[], object]
    die: Callable[[], object]


@dataclass
class Taken:
    """Frames, and the threads they came from."""

    frames: list[Frame] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, frame: Frame) -> None:
        """Keep one."""
        self.frames.append(frame)
        self.threads.add(threading.get_ident())

    async def has(self, number: int) -> None:
        """Wait for so many frames."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.frames) < number:  # noqa: ASYNC110 - frames come from another thread
                await asyncio.sleep(0.01)


def rtsp(start_camera: Callable[..., CameraStandIn]) -> Camera:
    """A real RTSP server."""
    camera = start_camera()
    return Camera(lambda: PyavSource(camera.url, OPTIONS, CLOCK), camera.freeze, camera.kill)


def synthetic() -> Camera:
    """A scripted camera."""
    camera = SyntheticCamera(CLOCK, SyntheticOptions(open_timeout_s=2.0, read_timeout_s=1.0))
    return Camera(camera.connect, camera.freeze, camera.die)


@pytest.fixture(params=["rtsp", "synthetic"])
def camera(request: pytest.FixtureRequest) -> Camera:
    """Cameras that can fail."""
    return rtsp(request.getfixturevalue("start_camera")) if request.param == "rtsp" else synthetic()


@pytest.fixture(params=["rtsp", "http", "synthetic", "played file"])
async def live(request: pytest.FixtureRequest, videos: Path) -> AsyncIterator[Callable[[], FrameSource]]:
    """Makes live sources."""
    match request.param:
        case "http":
            async with DemoCamera(videos / "stage_360p.mp4") as demo:
                yield lambda: PyavSource(demo.url, OPTIONS, CLOCK)
        case "rtsp":
            yield rtsp(request.getfixturevalue("start_camera")).connect
        case "synthetic":
            yield synthetic().connect
        case _:
            playing = CaptureOptions(media_folders=(videos,), realtime=True)
            yield lambda: PyavSource("stage_360p.mp4", playing, CLOCK)


@pytest.fixture(params=["pyav", "synthetic"])
def recording(request: pytest.FixtureRequest, videos: Path) -> tuple[FrameSource, int]:
    """A file and how many frames it has."""
    if request.param == "synthetic":
        return SyntheticCamera(CLOCK, SyntheticOptions(live=False, frames=40)).connect(), 40
    return PyavSource("stage_360p.mp4", CaptureOptions(media_folders=(videos,)), CLOCK), 275


async def test_frames_come_in_order_from_another_thread(live: Callable[[], FrameSource]) -> None:
    """Numbers and moments rise, sizes are those announced, moments are in the past, pixels are BGR of the size."""
    source, taken = live(), Taken()
    info = await source.open(taken)
    await taken.has(10)
    await source.close()
    frames = taken.frames
    assert info.live
    assert {(frame.width, frame.height) for frame in frames} == {(info.width, info.height)}
    numbers, moments = [frame.number for frame in frames], [frame.captured_at for frame in frames]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert moments == sorted(moments)
    assert moments[-1] <= CLOCK.monotonic()
    assert frames[-1].taken_at - time.time() == pytest.approx(moments[-1] - CLOCK.monotonic(), abs=0.1)
    assert threading.get_ident() not in taken.threads
    picture = await asyncio.to_thread(frames[3].image)
    assert picture.pixels.shape == (info.height, info.width, 3)
    small = await asyncio.to_thread(frames[4].scaled, 96)
    assert (max(small.width, small.height), small.source_width) == (96, info.width)


async def test_no_frame_after_close(live: Callable[[], FrameSource]) -> None:
    """Close returns within a second, again and again; nothing is taken afterwards, and waiting for the end ends."""
    source, taken = live(), Taken()
    await source.open(taken)
    waiting = asyncio.ensure_future(source.ended())
    await taken.has(3)
    begun = time.monotonic()
    await source.close()
    assert time.monotonic() - begun < 1.0
    number = len(taken.frames)
    await source.close()
    await asyncio.sleep(0.2)
    assert len(taken.frames) == number
    async with asyncio.timeout(1.0):
        await waiting


async def test_close_before_open() -> None:
    """A source that was never opened closes like any other."""
    await PyavSource("rtsp://192.0.2.1/x", OPTIONS, CLOCK).close()
    await SyntheticCamera(CLOCK).connect().close()


async def test_a_frozen_camera_has_failed(camera: Camera) -> None:
    """After the read timeout, with SourceFailed; closing it still takes less than a second."""
    source, taken = camera.connect(), Taken()
    await source.open(taken)
    await taken.has(5)
    camera.freeze()
    begun = time.monotonic()
    with pytest.raises(SourceFailed) as failed:
        async with asyncio.timeout(PATIENCE_S):
            await source.ended()
    assert failed.value.code == "source_timeout"
    assert time.monotonic() - begun < 2.0
    begun = time.monotonic()
    await source.close()
    assert time.monotonic() - begun < 1.0


async def test_closing_a_frozen_camera(camera: Camera) -> None:
    """Before anybody has noticed."""
    source, taken = camera.connect(), Taken()
    await source.open(taken)
    await taken.has(5)
    camera.freeze()
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    await source.close()
    assert time.monotonic() - begun < 1.0


async def test_opening_a_frozen_camera(camera: Camera) -> None:
    """SourceFailed within the open timeout."""
    camera.freeze()
    source, taken = camera.connect(), Taken()
    begun = time.monotonic()
    with pytest.raises(SourceFailed) as failed:
        await source.open(taken)
    assert failed.value.code == "source_timeout"
    assert time.monotonic() - begun < 3.0
    await source.close()
    assert taken.frames == []


async def test_a_killed_camera_has_failed(camera: Camera) -> None:
    """At once, and cannot be reached afterwards."""
    source, taken = camera.connect(), Taken()
    await source.open(taken)
    await taken.has(5)
    camera.die()
    with pytest.raises(SourceFailed) as lost:
        async with asyncio.timeout(PATIENCE_S):
            await source.ended()
    assert lost.value.code == "source_lost"
    await source.close()
    again = camera.connect()
    with pytest.raises(SourceFailed) as gone:
        await again.open(taken)
    assert gone.value.code == "source_unreachable"
    await again.close()


async def test_a_recording_loses_nothing(recording: tuple[FrameSource, int]) -> None:
    """Every frame though its reader is slow, then a clean end."""
    source, number = recording
    taken = Taken()

    def slowly(frame: Frame) -> None:
        taken(frame)
        time.sleep(0.002)

    info = await source.open(slowly)
    assert not info.live
    async with asyncio.timeout(20):
        await source.ended()
    assert [frame.number for frame in taken.frames] == list(range(number))
    await source.close()

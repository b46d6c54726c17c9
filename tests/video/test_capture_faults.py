"""Cameras that go wrong, each in its own way: noticed in time, named, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.cameras import CameraStandIn
from face_server.clock import SystemClock
from face_server.domain.frame import Frame
from face_server.errors import ConfigurationError, SourceFailed, Unavailable
from face_server.video.capture import CaptureOptions, PyavSource, abandoned_readers, probe

CLOCK = SystemClock()
QUICK = CaptureOptions(open_timeout_s=1.0, read_timeout_s=1.0)
NOTICED_S = 5.0


class Counting:
    """Counts frames."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, _frame: Frame) -> None:
        """One more."""
        self.frames += 1


async def noticed(source: PyavSource, trouble: Callable[[], object]) -> tuple[SourceFailed, float]:
    """Watch for a second, make trouble, and say how it was reported and after how many seconds."""
    count = Counting()
    await source.open(count)
    try:
        await asyncio.sleep(1.0)
        assert count.frames > 5
        trouble()
        begun = time.monotonic()
        with pytest.raises(SourceFailed) as failed:
            async with asyncio.timeout(2 * NOTICED_S):
                await source.ended()
        took = time.monotonic() - begun
        taken = count.frames
    finally:
        begun = time.monotonic()
        await source.close()
        assert time.monotonic() - begun < 1.0
    await asyncio.sleep(0.1)
    assert count.frames == taken
    return failed.value, took


async def none_left() -> None:
    """Wait until every reader has ended, as long as the library may take."""
    async with asyncio.timeout(20):
        while abandoned_readers() or readers():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


def readers() -> int:
    """Threads of this process that read cameras."""
    return sum(thread.name == "camera" for thread in threading.enumerate())


async def live_through(source: PyavSource) -> None:
    """Open and read to the end."""
    await source.open(Counting())
    await source.ended()


@pytest.mark.parametrize(
    ("trouble", "code"), [("freeze", "source_timeout"), ("silence", "source_timeout"), ("kill", "source_lost"), ("stop", "source_lost")]
)
async def test_a_camera_that_stops_is_noticed(start_camera: Callable[..., CameraStandIn], trouble: str, code: str) -> None:
    """Frozen, silent, killed, shut down: reported within five seconds under the default options."""
    camera = start_camera()
    failure, took = await noticed(PyavSource(camera.url, CaptureOptions(), CLOCK), getattr(camera, trouble))
    assert failure.code == code
    assert not failure.needs_operator
    assert took < NOTICED_S
    assert camera.url not in failure.message
    if trouble == "freeze":
        camera.thaw()
    await none_left()


async def test_a_camera_that_sends_noise_is_noticed(start_camera: Callable[..., CameraStandIn]) -> None:
    """Packets that no longer hold pictures: garbled within five seconds, and no broken picture was handed over."""
    camera = start_camera(garble_after_s=0.9)
    source = PyavSource(camera.url, CaptureOptions(), CLOCK)
    failure, took = await noticed(source, lambda: None)
    assert failure.code == "source_garbled"
    assert took < NOTICED_S


async def test_a_camera_without_keyframes_is_noticed(start_camera: Callable[..., CameraStandIn]) -> None:
    """It opens, and gives nothing that can be decoded: said within five seconds."""
    camera = start_camera(no_keyframes=True)
    begun = time.monotonic()
    source = PyavSource(camera.url, CaptureOptions(), CLOCK)
    with pytest.raises(SourceFailed) as failed:
        await live_through(source)
    assert time.monotonic() - begun <= NOTICED_S + 0.2
    assert failed.value.code in ("source_garbled", "source_timeout")
    await source.close()


async def test_a_camera_comes_back_as_another(start_camera: Callable[..., CameraStandIn]) -> None:
    """After a restart with another size and password the old credentials are refused by name, new ones work."""
    camera = start_camera(user="admin", password="first")
    assert (await probe(camera.url, CaptureOptions(), CLOCK)).width == 640
    old = camera.url
    camera.restart(password="s3cond", sizes=("320x180",))
    with pytest.raises(SourceFailed) as refused:
        await probe(old, CaptureOptions(), CLOCK)
    assert (refused.value.code, refused.value.needs_operator) == ("source_credentials", True)
    assert "first" not in refused.value.message
    assert (await probe(camera.url, CaptureOptions(), CLOCK)).width == 320


@asynccontextmanager
async def server_that(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[str]:
    """A TCP server on loopback; gives its host and port."""
    writers = []

    def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        answer(reader, writer)

    server = await asyncio.start_server(met, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
@pytest.mark.parametrize("manner", ["mute", "noise", "hang_up"])
async def test_what_is_no_camera_at_all(scheme: str, manner: str) -> None:
    """A server that accepts and says nothing, talks nonsense, or hangs up: SourceFailed within the open timeout."""

    def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if manner == "noise":
            writer.write(os.urandom(1 << 16))
        elif manner == "hang_up":
            writer.close()

    async with server_that(answer) as place:
        source = PyavSource(f"{scheme}://{place}/live/x", QUICK, CLOCK)
        begun = time.monotonic()
        with pytest.raises(SourceFailed) as failed:
            await live_through(source)
        assert time.monotonic() - begun < 2.5
        await source.close()
        assert failed.value.code in {"source_timeout", "source_lost", "source_garbled", "source_unreachable"}
        if manner == "mute":
            assert failed.value.code == "source_timeout"
    await none_left()


async def test_nobody_there() -> None:
    """A closed port, an unknown name, an unknown path: each has its code."""
    async with server_that(lambda _reader, writer: writer.close()) as place:
        pass
    for host in (place, "no-such-camera.invalid"):
        with pytest.raises(SourceFailed) as failed:
            await probe(f"rtsp://{host}/x", QUICK, CLOCK)
        assert failed.value.code == "source_unreachable"


async def test_an_unknown_path_is_named(start_camera: Callable[..., CameraStandIn]) -> None:
    """The camera is there, the stream is not: it may come, so no operator is called."""
    camera = start_camera()
    with pytest.raises(SourceFailed) as failed:
        await probe(camera.url + "x", CaptureOptions(), CLOCK)
    assert (failed.value.code, failed.value.needs_operator) == ("source_not_found", False)


async def test_a_redirect_is_not_followed(start_camera: Callable[..., CameraStandIn]) -> None:
    """It would lead past the check of addresses."""
    asked: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader) -> None:
        asked.append(await reader.readline())

    async with server_that(lambda reader, _writer: waiting.append(asyncio.ensure_future(elsewhere(reader)))) as target:
        waiting: list[asyncio.Future[None]] = []
        line = f"HTTP/1.1 302 Found\r\nLocation: http://{target}/secret\r\nContent-Length: 0\r\n\r\n".encode()
        async with server_that(lambda _reader, writer: writer.write(line)) as place:
            with pytest.raises(SourceFailed):
                await probe(f"http://{place}/video", QUICK, CLOCK)
    assert asked == []


def descriptors() -> int:
    """Open file descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_frozen_cameras_leak_nothing(start_camera: Callable[..., CameraStandIn]) -> None:
    """Opened and closed again and again while frozen: threads are bounded, end with the library's timeout, and so do descriptors."""
    camera = start_camera()
    assert (await probe(camera.url, QUICK, CLOCK)).width == 640
    await none_left()
    files = descriptors()
    impatient = CaptureOptions(open_timeout_s=0.3, read_timeout_s=0.3)
    live = PyavSource(camera.url, impatient, CLOCK)
    await live.open(Counting())
    camera.freeze()
    with pytest.raises(SourceFailed):
        await live.ended()
    await live.close()
    most = 0
    for _ in range(6):
        source = PyavSource(camera.url, impatient, CLOCK)
        with pytest.raises(SourceFailed, match="did not answer within"):
            await source.open(Counting())
        begun = time.monotonic()
        await source.close()
        assert time.monotonic() - begun < 1.0
        most = max(most, readers())
    assert 1 <= most <= 4
    begun = time.monotonic()
    await none_left()
    assert time.monotonic() - begun < 10
    assert descriptors() == files
    camera.thaw()
    assert (await probe(camera.url, CaptureOptions(), CLOCK)).width == 640


async def test_too_many_abandoned_readers_refuse_new_ones() -> None:
    """While the bound of hanging threads is reached, opening is refused; afterwards it works again."""
    async with server_that(lambda *_: None) as place:
        options = CaptureOptions(open_timeout_s=0.1, max_abandoned=2)
        for _ in range(2):
            source = PyavSource(f"rtsp://{place}/x", options, CLOCK)
            with pytest.raises(SourceFailed):
                await source.open(Counting())
            task = asyncio.ensure_future(source.close())
        with pytest.raises(Unavailable, match="2 connections to cameras that were given up"):
            await PyavSource(f"rtsp://{place}/x", options, CLOCK).open(Counting())
        await task
    await none_left()


async def test_an_abandoned_thread_holds_nothing_of_its_reader(start_camera: Callable[..., CameraStandIn]) -> None:
    """While it still hangs, whoever took its frames is free to go."""
    camera = start_camera()
    source, count = PyavSource(camera.url, QUICK, CLOCK), Counting()
    await source.open(count)
    await asyncio.sleep(0.5)
    camera.freeze()
    await asyncio.sleep(0.2)
    await source.close()
    held = weakref.ref(count)
    del count
    gc.collect()
    assert abandoned_readers() == 1
    assert held() is None
    camera.thaw()
    await none_left()


async def test_cancelling_open_lets_go(start_camera: Callable[..., CameraStandIn]) -> None:
    """Whoever stops waiting for a camera that does not answer gets no frames later."""
    camera, count = start_camera(), Counting()
    camera.freeze()
    source = PyavSource(camera.url, CaptureOptions(), CLOCK)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await source.open(count)
    await source.close()
    camera.thaw()
    await none_left()
    assert count.frames == 0


async def test_an_overloaded_reader_skips_instead_of_lagging(start_camera: Callable[..., CameraStandIn]) -> None:
    """With a consumer that takes three times too long, frames stay about as old as the budget allows, and the gaps are counted."""
    camera = start_camera("stage_360p.mp4", sizes=("320x180",), fps=25, gop=10)
    ages: list[float] = []
    numbers: list[int] = []

    def take(frame: Frame) -> None:
        ages.append(CLOCK.monotonic() - frame.captured_at)
        numbers.append(frame.number)
        time.sleep(0.12)

    source = PyavSource(camera.url, CaptureOptions(), CLOCK)
    await source.open(take)
    await asyncio.sleep(5)
    await source.close()
    assert max(ages) < 2.0
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - len(numbers) > 30
    assert numbers[-1] > 80


async def test_a_failing_consumer_is_heard(start_camera: Callable[..., CameraStandIn]) -> None:
    """An error of whoever takes frames is raised to the one who waits for the end."""
    source = PyavSource(start_camera().url, CaptureOptions(), CLOCK)

    def take(_frame: Frame) -> None:
        raise ValueError("cannot take this")

    await source.open(take)
    with pytest.raises(ValueError, match="cannot take this"):
        await source.ended()
    await source.close()


def test_timeouts_have_bounds() -> None:
    """Options that would wait for ever are refused with the name of the option."""
    with pytest.raises(ConfigurationError, match="read_timeout_s"):
        CaptureOptions(read_timeout_s=0)
    with pytest.raises(ConfigurationError, match="max_abandoned"):
        CaptureOptions(max_abandoned=0)

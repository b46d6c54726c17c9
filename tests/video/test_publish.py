"""Streams published to real media servers: what viewers see, and how failures are survived."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest

from face_server.clock import SystemClock
from face_server.domain.events import Who
from face_server.domain.face import Box
from face_server.domain.image import Pixels
from face_server.domain.tracks import SeenTrack
from face_server.errors import InvalidInput
from face_server.video.ffmpeg import find_ffmpeg
from face_server.video.publish import FfmpegView, PublishOptions, check_publish_url
from face_server.video.scene import NAMED, draw_scene

from .publishing import (
    GREY,
    Camera,
    RtmpServer,
    children,
    coded,
    frame_of,
    free_port,
    is_ffmpeg,
    noise,
    read_code,
    rtmp_server,
    track_at,
    until,
)

QUICK = PublishOptions(title="door", away_s=0.7, first_frame_s=1.0, stall_s=1.5, connect_s=2.0, backoff_s=0.2, max_backoff_s=1.0)
WIDTH, HEIGHT, FPS = 640, 360, 25
ADA = Who("Ada Lovelace", 0.71, 0.41, "default", "1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtmpServer]:
    """A running RTMP server."""
    with rtmp_server(tmp_path) as running:
        yield running


def publish(url: str, options: PublishOptions = QUICK) -> FfmpegView:
    """A view that draws scenes."""
    return FfmpegView(url, SystemClock(), draw_scene, options)


def grey(number: int, _: float) -> Pixels:
    """Pictures with their number at the upper edge."""
    return coded(WIDTH, HEIGHT, number)


@dataclass
class Recording:
    """All that a receiver got of a published stream, from its first frame on."""

    width: int = 0
    height: int = 0
    codec: str = ""
    pixel_format: str = ""
    streams: int = 0
    keyframes: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    pictures: list[Pixels] = field(default_factory=list)


async def _record(url: str) -> float:
    """Publish a camera with late and lost frames, somebody marked; how long it was published (s)."""
    view = publish(url)
    with Camera(view, grey, fps=FPS, jitter_s=0.012, lost=0.05) as camera:
        clock = camera.clock
        await until(lambda: view.state == "publishing", 10)
        begun = clock.monotonic()
        for _ in range(20):
            at = clock.monotonic()
            view.show([track_at(5, Box(200, 150, 300, 270), at, ADA)], frame_of(grey(0, 0), 0, at, clock))
            await asyncio.sleep(0.25)
        seconds = clock.monotonic() - begun
        await view.close()
    return seconds


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Five seconds of a published stream as ``ffmpeg -listen`` has received them."""
    file = tmp_path_factory.mktemp("received") / "stream.mkv"
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    receiver = subprocess.Popen([find_ffmpeg(), "-v", "error", "-listen", "1", "-i", url, "-c", "copy", file], stdin=subprocess.DEVNULL)
    try:
        asyncio.run(_record(url))
        receiver.wait(10)
    finally:
        receiver.kill()
        receiver.wait()
    got = Recording()
    with av.open(file) as container:
        stream = container.streams.video[0]
        got.streams = len(container.streams)
        got.width, got.height, got.codec = stream.width, stream.height, stream.codec_context.name
        got.pixel_format = str(stream.codec_context.pix_fmt)
        for picture in container.decode(stream):
            pixels = picture.to_ndarray(format="bgr24")
            got.times.append(float(picture.time))
            got.codes.append(read_code(pixels))
            got.pictures.append(pixels)
            if picture.key_frame:
                got.keyframes.append(float(picture.time))
    return got


def test_form_of_the_stream(recording: Recording) -> None:
    """H.264 in 4:2:0 without sound, at the size of the source, with a key frame every two seconds."""
    assert (recording.codec, recording.pixel_format, recording.streams) == ("h264", "yuv420p", 1)
    assert (recording.width, recording.height) == (WIDTH, HEIGHT)
    assert len(recording.keyframes) >= 3
    assert np.diff(recording.keyframes) == pytest.approx(2.0, abs=0.01)


def test_frame_rate_is_constant(recording: Recording) -> None:
    """Frames come at the source's rate, one every 40 ms, though some of the source were late or lost."""
    assert len(recording.times) > 4 * FPS
    assert np.diff(recording.times) == pytest.approx(1 / FPS, abs=0.0015)


def test_it_plays_as_fast_as_life(recording: Recording) -> None:
    """A frame that the camera made a second later is shown a second later, throughout."""
    # The first picture waits for the connection; from then on times follow the camera.
    shown = np.array(recording.times[5:]) - recording.times[5]
    made = (np.array(recording.codes[5:]) - recording.codes[5]) / FPS
    assert np.abs(shown - made).max() < 0.2
    assert np.median(np.abs(shown - made - np.median(shown - made))) <= 1 / FPS
    assert np.diff(recording.codes).min() >= 0, "no picture of the past is shown again"


def test_most_pictures_are_shown_once(recording: Recording) -> None:
    """Only the lost twentieth is replaced by the picture before it: frames at about the rate get a slot each."""
    steps = np.diff(recording.codes[5:])
    assert np.mean(steps == 0) < 0.2
    assert np.mean(steps == 1) > 0.7


def test_boxes_are_on_every_frame(recording: Recording) -> None:
    """Somebody seen four times a second is marked on all 25 frames of that second."""
    edge = [np.abs(pixels[210, 199:202].astype(int) - NAMED).sum(axis=1).min() for pixels in recording.pictures[FPS:-FPS]]
    assert np.mean(np.array(edge) < 60) > 0.97


def test_colours_are_those_of_the_source(recording: Recording) -> None:
    """Grey stays this grey, and the green of the box is that green."""
    pixels = recording.pictures[2 * FPS]
    assert pixels[150:330, 400:620].reshape(-1, 3).mean(axis=0) == pytest.approx([GREY] * 3, abs=2)


async def test_colours_of_a_bright_scene(server: RtmpServer) -> None:
    """Saturated colours come back within a few levels, at a size for which players assume another matrix."""
    swatches = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (30, 190, 210), (235, 235, 235), (20, 20, 20)]
    picture = np.zeros((720, 1280, 3), np.uint8)
    for index, colour in enumerate(swatches):
        picture[:, index * 213 : (index + 1) * 213] = colour
    view = publish(server.url)
    with Camera(view, lambda *_: picture):
        await until(lambda: view.state == "publishing", 10)
        pixels = (await asyncio.to_thread(server.read, 0.5))[-1][1]
        await view.close()
    for index, colour in enumerate(swatches):
        middle = pixels[100:600, index * 213 + 40 : index * 213 + 170].reshape(-1, 3).mean(axis=0)
        assert middle == pytest.approx(colour, abs=4)


async def test_card_stands_in_while_the_camera_is_away(server: RtmpServer) -> None:
    """Without frames the stream goes on in the same size with the card, and the camera comes back without a break."""
    view = publish(server.url)
    with Camera(view, grey) as camera:
        await until(lambda: view.state == "publishing", 10)
        process = children()
        camera.on = False
        await asyncio.sleep(1.5)
        away = (await asyncio.to_thread(server.read, 1.0))[-1][1]
        assert away.shape == (HEIGHT, WIDTH, 3)
        assert away[60:].mean() < GREY / 2, "a dark card"
        assert (away > 200).any(), "with text"
        assert view.state == "publishing"
        camera.on = True
        await asyncio.sleep(1.0)
        back = (await asyncio.to_thread(server.read, 0.5))[-1][1]
        assert np.median(back[60:]) == pytest.approx(GREY, abs=3)
        assert children() == process, "the same ffmpeg all along"
        await view.close()


async def test_card_before_the_first_frame_then_the_size_of_the_camera(server: RtmpServer) -> None:
    """A stream is on before its camera is; when the camera comes, the stream takes its size and rate."""
    view = publish(server.url)
    await until(lambda: view.state == "publishing", 10)
    card = (await asyncio.to_thread(server.read, 0.2))[-1][1]
    assert card.shape == (720, 1280, 3)
    with Camera(view, grey, fps=15) as camera:
        await asyncio.sleep(3)
        await until(lambda: view.state == "publishing", 10)
        frames = await asyncio.to_thread(server.read, 1.0)
        assert frames[-1][1].shape == (HEIGHT, WIDTH, 3)
        assert np.median(np.diff([at for at, _ in frames])) == pytest.approx(1 / 15, abs=0.002)
        assert camera.slowest_take_s < 0.2
    await view.close()


async def test_new_size_of_the_source(server: RtmpServer) -> None:
    """When the camera changes its size and shape for good, the stream follows; an odd size is made even."""
    sizes = [(320, 240)]
    view = publish(server.url)
    with Camera(view, lambda number, _: coded(*sizes[-1], number)):
        await until(lambda: view.state == "publishing", 10)
        assert (await asyncio.to_thread(server.read, 0.2))[-1][1].shape == (240, 320, 3)
        sizes.append((641, 361))
        await asyncio.sleep(3)
        assert (await asyncio.to_thread(server.read, 0.2))[-1][1].shape == (360, 640, 3)
    await view.close()


async def test_server_dies_and_returns(server: RtmpServer, caplog: pytest.LogCaptureFixture) -> None:
    """While the media server is gone the state says so, and soon after it is back the stream is; no key is told."""
    caplog.set_level(logging.INFO)
    view = publish(server.url)
    with Camera(view, grey):
        await until(lambda: view.state == "publishing", 10)
        server.kill()
        await until(lambda: view.state == "waiting: the media server refuses connections", 10)
        server.start()
        assert await until(lambda: view.state == "publishing", 10) < 6
        assert len(await asyncio.to_thread(server.read, 0.2)) > 3
        await view.close()
    assert "refuses connections" in caplog.text
    assert "s3cret" not in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_server_freezes(server: RtmpServer) -> None:
    """A media server that keeps the connection and takes nothing is noticed, and left for one that works."""
    view = publish(server.url)
    with Camera(view, noise(WIDTH, HEIGHT)) as camera:
        await until(lambda: view.state == "publishing", 10)
        server.signal(signal.SIGSTOP)
        await until(lambda: view.state.startswith("waiting"), 15)
        assert camera.slowest_take_s < 0.2, "the source is not held up"
        server.kill()
        server.start()
        await until(lambda: view.state == "publishing", 10)
        await view.close()


async def test_drawing_that_fails_is_survived(server: RtmpServer, caplog: pytest.LogCaptureFixture) -> None:
    """An error of whoever draws is logged and told, and publishing begins again when it is over."""
    broken = threading.Event()
    broken.set()

    def draw(pixels: Pixels, tracks: Sequence[SeenTrack], footer: str) -> Pixels:
        if broken.is_set():
            raise RuntimeError("the pen is dry")
        return draw_scene(pixels, tracks, footer)

    view = FfmpegView(server.url, SystemClock(), draw, QUICK)
    with Camera(view, grey):
        await until(lambda: view.state == "waiting: an internal error", 10)
        broken.clear()
        await until(lambda: view.state == "publishing", 10)
        await view.close()
    assert view.state == "stopped"
    assert "the pen is dry" in caplog.text
    assert children() == set()


@pytest.mark.parametrize("situation", ["connecting", "refused", "publishing", "frozen", "card", "at once"])
async def test_close_from_every_state(server: RtmpServer, situation: str) -> None:
    """Closing takes less than two seconds whatever is going on, can be repeated, and leaves no process and no thread."""
    silent = socket.create_server(("127.0.0.1", 0))
    urls = {"connecting": f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/x", "refused": f"rtmp://127.0.0.1:{free_port()}/live/x"}
    view = publish(urls.get(situation, server.url))
    with Camera(view, noise(WIDTH, HEIGHT)) as camera:
        camera.on = situation != "card"
        if situation == "connecting":
            await until(lambda: bool(children()), 10)
            await asyncio.sleep(0.3)
        elif situation == "refused":
            await until(lambda: view.state.startswith("waiting"), 10)
        elif situation != "at once":
            await until(lambda: view.state == "publishing", 10)
        if situation == "frozen":
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(1.2)
        begun = time.monotonic()
        await view.close()
        assert time.monotonic() - begun < 2
        await view.close()
    silent.close()
    assert children() == set()
    assert all(thread.name != "publish" or not thread.is_alive() for thread in threading.enumerate())


SERVICE = """
import sys, time
from face_server.clock import SystemClock
from face_server.video.publish import FfmpegView, PublishOptions
from face_server.video.scene import draw_scene
view = FfmpegView(sys.argv[1], SystemClock(), draw_scene, PublishOptions(first_frame_s=0.1, stall_s=60))
while view.state != "publishing":
    time.sleep(0.05)
print("publishing", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("frozen", [False, True])
async def test_killed_service_leaves_no_ffmpeg(server: RtmpServer, frozen: bool) -> None:
    """After kill -9 of the service its ffmpeg is gone too, even one that hangs on a frozen media server."""
    service = subprocess.Popen([sys.executable, "-c", SERVICE, server.url], stdout=subprocess.PIPE)  # noqa: ASYNC220 - it must be killed
    try:
        assert service.stdout is not None
        assert await asyncio.to_thread(service.stdout.readline) == b"publishing\n"
        tasks = Path(f"/proc/{service.pid}/task").iterdir()
        ffmpeg = [int(pid) for task in tasks for pid in (task / "children").read_text().split() if is_ffmpeg(int(pid))]
        assert len(ffmpeg) == 1
        if frozen:
            server.signal(signal.SIGSTOP)
    finally:
        service.kill()
        service.wait()
        service.stdout.close()
    await until(lambda: not is_ffmpeg(ffmpeg[0]), 6)


@pytest.mark.parametrize(
    "url", ["", "rtmp://", "http://host/app/key", "rtmp://host", "rtmp://host/", "rtmp://host:99999/a", "rtsp://host/a b", "rtmp://h/a\nb"]
)
def test_addresses_that_cannot_be_published_to(url: str) -> None:
    """A URL of another scheme, without host or name is refused before anything starts."""
    with pytest.raises(InvalidInput, match="rtmp://host/app/name") as refused:
        check_publish_url(url)
    assert refused.value.field == "url"

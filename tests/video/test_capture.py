"""Reading cameras and files that are well."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from benchmarks.cameras import CameraStandIn
from face_server.clock import SystemClock
from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.streams import Mode, Transport
from face_server.errors import InvalidInput, SourceFailed
from face_server.video.capture import CaptureOptions, PyavSource, probe
from face_server.video.demo_camera import DemoCamera

CLOCK = SystemClock()


@dataclass
class Seen:
    """What a source gave."""

    frames: list[Frame] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    info: SourceInfo | None = None

    def take(self, frame: Frame) -> None:
        """Keep it."""
        self.frames.append(frame)
        self.ages_s.append(CLOCK.monotonic() - frame.captured_at)


async def watch(source: PyavSource, seconds: float = 30.0, frames: int = 10_000) -> Seen:
    """Read a source until it ends, for some time, or for some frames."""
    seen = Seen()
    try:
        seen.info = await source.open(seen.take)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                end = asyncio.ensure_future(source.ended())
                while len(seen.frames) < frames and not end.done():
                    await asyncio.wait((end,), timeout=0.05)
                if end.done():
                    await end
                end.cancel()
    finally:
        await source.close()
    return seen


@pytest.fixture
def options(videos: Path) -> CaptureOptions:
    """Files of the test videos are allowed."""
    return CaptureOptions(media_folders=(videos,))


@pytest.mark.parametrize("transport", list(Transport))
async def test_rtsp_opens_at_once_and_stays_fresh(start_camera: Callable[..., CameraStandIn], transport: Transport) -> None:
    """A 1080p camera, over TCP and UDP: open within a second, frames in order, no older than a tenth of a second."""
    camera = start_camera("street_1080p.mp4")
    begun = time.monotonic()
    seen = await watch(PyavSource(camera.url, CaptureOptions(), CLOCK, transport=transport), frames=60)
    assert seen.info == SourceInfo(1920, 1080, 25.0, "h264")
    assert time.monotonic() - begun < 6
    assert [frame.number for frame in seen.frames] == list(range(len(seen.frames)))
    moments = [frame.captured_at for frame in seen.frames]
    assert moments == sorted(moments)
    assert np.median(np.diff(moments[10:])) == pytest.approx(0.04, abs=0.005)
    assert np.percentile(seen.ages_s, 90) < 0.1
    assert abs(seen.frames[-1].taken_at - time.time()) < 1.0
    assert seen.frames[50].position_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("codec", "name"), [("h265", "hevc"), ("mjpeg", "mjpeg")])
async def test_other_codecs(start_camera: Callable[..., CameraStandIn], codec: str, name: str) -> None:
    """H.265 and MJPEG over RTSP."""
    camera = start_camera(codec=codec, sizes=("320x176",))
    seen = await watch(PyavSource(camera.url, CaptureOptions(), CLOCK), frames=20)
    assert seen.info is not None
    assert (seen.info.codec, seen.info.width, seen.info.height) == (name, 320, 176)
    assert seen.frames[-1].image().pixels.shape == (176, 320, 3)


async def test_the_size_may_change_in_mid_stream(start_camera: Callable[..., CameraStandIn]) -> None:
    """The next frames have the new size, nothing fails, none is missing."""
    camera = start_camera("street_1080p.mp4", sizes=("320x180", "480x270"))
    seen = await watch(PyavSource(camera.url, CaptureOptions(), CLOCK), frames=125)
    assert {(frame.width, frame.height) for frame in seen.frames} == {(320, 180), (480, 270)}
    assert seen.frames[-1].number == len(seen.frames) - 1
    assert seen.frames[120].image().pixels.shape == (seen.frames[120].height, seen.frames[120].width, 3)


async def test_a_burst_after_a_stall_is_caught_up(start_camera: Callable[..., CameraStandIn]) -> None:
    """Two seconds held back arrive with their true age, and soon after frames are fresh again."""
    camera = start_camera()
    source, seen = PyavSource(camera.url, CaptureOptions(), CLOCK), Seen()
    await source.open(seen.take)
    await asyncio.sleep(1.0)
    camera.freeze()
    await asyncio.sleep(2.0)
    camera.thaw()
    await asyncio.sleep(1.0)
    await source.close()
    assert 1.5 < max(seen.ages_s[10:]) < 2.6
    assert np.median(seen.ages_s[-10:]) < 0.1
    assert seen.frames[-1].number == len(seen.frames) - 1


async def test_a_file_waits_for_its_reader_and_loses_nothing(options: CaptureOptions) -> None:
    """Every frame, in order, though the reader is slow; then a clean end."""
    source, seen = PyavSource("stage_360p.mp4", options, CLOCK), Seen()

    def take(frame: Frame) -> None:
        seen.take(frame)
        time.sleep(0.002)

    info = await source.open(take)
    await source.ended()
    await source.ended()
    await source.close()
    assert info == SourceInfo(640, 360, 29.97, "h264", live=False)
    assert [frame.number for frame in seen.frames] == list(range(275))
    assert seen.frames[-1].position_s == pytest.approx(274 / 29.97, abs=0.01)


async def test_a_file_may_play_as_a_camera(videos: Path) -> None:
    """In real time it takes as long as it is long, counts as live, and ends."""
    source = PyavSource("street_1080p.mp4", CaptureOptions(media_folders=(videos,), realtime=True), CLOCK)
    begun = time.monotonic()
    seen = await watch(source)
    assert time.monotonic() - begun == pytest.approx(105 / 25, abs=0.7)
    assert seen.info is not None
    assert seen.info.live
    assert max(seen.ages_s) < 0.5
    assert seen.frames[-1].number == 104


def serve_folder(folder: Path) -> ThreadingHTTPServer:
    """An HTTP server of the files in ``folder``, on a free port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def ffmpeg(*arguments: object) -> None:
    """Run FFmpeg to its end."""
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


async def test_hls_plays_at_its_own_pace(videos: Path, tmp_path: Path) -> None:
    """Segments arrive at once, their frames are handed over in real time."""
    ffmpeg("-i", videos / "stage_360p.mp4", "-an", "-c", "copy", "-t", 5, "-hls_time", 1, "-hls_playlist_type", "vod", tmp_path / "x.m3u8")
    server = serve_folder(tmp_path)
    try:
        source = PyavSource(f"http://127.0.0.1:{server.server_port}/x.m3u8", CaptureOptions(), CLOCK)
        seen = await watch(source, seconds=2.0)
    finally:
        server.shutdown()
        server.server_close()
    assert 45 < len(seen.frames) < 75
    assert np.percentile(seen.ages_s, 90) < 0.1


async def test_a_playlist_cannot_read_local_files(videos: Path, tmp_path: Path) -> None:
    """An HLS playlist that names a file of this machine gets nothing from it."""
    ffmpeg("-i", videos / "stage_360p.mp4", "-an", "-c", "copy", "-t", 2, tmp_path / "secret.ts")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
    (tmp_path / "good.m3u8").write_text(playlist.format("secret.ts"))
    (tmp_path / "bad.m3u8").write_text(playlist.format(f"file://{tmp_path}/secret.ts"))
    server = serve_folder(tmp_path)
    try:
        good, bad = (PyavSource(f"http://127.0.0.1:{server.server_port}/{name}.m3u8", CaptureOptions(), CLOCK) for name in ("good", "bad"))
        assert (await watch(good, frames=3)).frames
        with pytest.raises(SourceFailed):
            await watch(bad, seconds=6)
    finally:
        server.shutdown()
        server.server_close()
    (tmp_path / "local.m3u8").write_text(playlist.format(f"{tmp_path}/secret.ts"))
    with pytest.raises(SourceFailed):
        await watch(PyavSource("local.m3u8", CaptureOptions(media_folders=(tmp_path,)), CLOCK))


@contextlib.asynccontextmanager
async def mjpeg_camera(videos: Path, tmp_path: Path, fps: float) -> AsyncIterator[str]:
    """A camera that sends JPEG after JPEG over HTTP, without time stamps."""
    ffmpeg("-i", videos / "stage_360p.mp4", "-frames:v", 1, tmp_path / "x.jpg")
    jpeg = (tmp_path / "x.jpg").read_bytes()

    over = asyncio.Event()
    answered: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            while not over.is_set():
                writer.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
                await writer.drain()
                await asyncio.sleep(1 / fps)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/video.mjpg"
    finally:
        over.set()
        server.close()
        await asyncio.gather(*filter(None, answered))


async def test_mjpeg_without_time_stamps_is_fresh(videos: Path, tmp_path: Path) -> None:
    """Ten pictures a second, which FFmpeg takes for twenty-five, are not thought to be late."""
    async with mjpeg_camera(videos, tmp_path, fps=10) as url:
        seen = await watch(PyavSource(url, CaptureOptions(), CLOCK), seconds=3)
    assert 20 < len(seen.frames) < 35
    assert seen.info is not None
    assert (seen.info.width, seen.info.codec) == (640, "mjpeg")
    assert max(seen.ages_s[2:]) < 0.1


async def test_rtmp(videos: Path) -> None:
    """FFmpeg serves a live RTMP stream, which is read."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"rtmp://127.0.0.1:{free.getsockname()[1]}/live/x"
    line = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-re", "-i", videos / "stage_360p.mp4", "-an", "-c", "copy", "-f", "flv"]
    server = await asyncio.create_subprocess_exec(*map(str, line), "-listen", "1", url, stderr=subprocess.DEVNULL)
    try:
        for _ in range(50):
            await asyncio.sleep(0.1)
            with contextlib.suppress(SourceFailed):
                seen = await watch(PyavSource(url, CaptureOptions(), CLOCK), frames=30)
                break
    finally:
        server.kill()
        await server.wait()
    assert seen.info is not None
    assert (seen.info.width, seen.info.codec) == (640, "h264")
    assert len(seen.frames) >= 30


async def test_probe_says_what_a_source_is(start_camera: Callable[..., CameraStandIn], options: CaptureOptions) -> None:
    """A camera and a file, each after its first frame; nothing stays open."""
    camera = start_camera("street_1080p.mp4")
    assert await probe(camera.url, CaptureOptions(), CLOCK) == SourceInfo(1920, 1080, 25.0, "h264")
    assert await probe("walkers_576p.avi", options, CLOCK) == SourceInfo(768, 576, 10.0, "msmpeg4", live=False)


async def test_what_must_not_be_read(options: CaptureOptions, videos: Path, tmp_path: Path) -> None:
    """Files outside of the folders, missing ones, ones that are no video, sound alone."""
    with pytest.raises(InvalidInput, match="media folders"):
        PyavSource("/etc/passwd", options, CLOCK)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.mp4")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    here = CaptureOptions(media_folders=(tmp_path,))
    for name, code in (("none", "source_not_found"), ("folder", "source_not_found"), ("text", "source_garbled"), ("sound", "source_codec")):
        with pytest.raises(SourceFailed) as failed:
            await watch(PyavSource(f"{name}.mp4", here, CLOCK))
        assert (failed.value.code, failed.value.needs_operator) == (code, True)
        assert str(tmp_path) not in failed.value.message
    link = tmp_path / "link.mp4"
    source = PyavSource("link.mp4", here, CLOCK)
    link.symlink_to(videos / "stage_360p.mp4")
    with pytest.raises(SourceFailed, match="media folders") as moved:
        await watch(source)
    assert moved.value.code == "source_forbidden"


async def test_gpu_mode_says_plainly_what_is_missing(start_camera: Callable[..., CameraStandIn]) -> None:
    """Without an OpenCV that has cudacodec the answer is a sentence, not a crash."""
    with pytest.raises(SourceFailed, match="use mode cpu") as failed:
        await watch(PyavSource(start_camera().url, CaptureOptions(), CLOCK, mode=Mode.GPU))
    assert failed.value.needs_operator


async def test_a_demo_camera_goes_on_over_its_loops(videos: Path, tmp_path: Path) -> None:
    """Three loops of a short file without a gap, a leap or a failure; viewers are bounded and see the same moment."""
    ffmpeg("-i", videos / "stage_360p.mp4", "-an", "-c", "copy", "-t", 1.5, tmp_path / "short film.mp4")
    async with DemoCamera(tmp_path / "short film.mp4", max_viewers=2) as camera:
        assert camera.url.endswith("/short_film.ts")
        begun = time.monotonic()
        await asyncio.sleep(0.5)
        first, second = await asyncio.gather(
            watch(PyavSource(camera.url, CaptureOptions(), CLOCK), seconds=4.5),
            watch(PyavSource(camera.url, CaptureOptions(), CLOCK), seconds=1.0),
        )
        assert first.frames[-1].position_s == pytest.approx(time.monotonic() - begun, abs=0.4)
        assert first.frames[-1].position_s > 3 * 1.5
        assert first.frames[-1].number == len(first.frames) - 1
        steps = np.diff([frame.position_s for frame in first.frames])
        assert steps == pytest.approx(np.full(len(steps), 1 / 29.97), abs=2e-3)
        assert np.percentile(first.ages_s, 95) < 0.1
        assert len(second.frames) > 10
        while camera.viewers:  # noqa: ASYNC110 - nothing tells when the server has noticed
            await asyncio.sleep(0.02)
        opened = [await asyncio.open_connection("127.0.0.1", int(camera.url.split(":")[2].split("/")[0])) for _ in range(3)]
        answers = []
        for reader, writer in opened:
            writer.write(b"GET /short_film.ts HTTP/1.1\r\n\r\n")
            answers.append((await reader.readline()).decode())
        assert [answer.split()[1] for answer in answers] == ["200", "200", "503"]
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()


async def test_a_demo_camera_refuses_what_it_cannot_play(videos: Path, tmp_path: Path) -> None:
    """A missing file, another codec, no video: the sentence names the file's trouble."""
    (tmp_path / "text.mp4").write_text("no video")
    for file, says in ((tmp_path / "none.mp4", "missing"), (tmp_path / "text.mp4", "no video"), (videos / "walkers_576p.avi", "H.264")):
        with pytest.raises(InvalidInput, match=says) as refused:
            await DemoCamera(file).start()
        assert refused.value.field == "file"

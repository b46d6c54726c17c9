"""The parts of publishing that need no server: pacing, moving boxes, sizes, and the ffmpeg process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.clock import SystemClock
from face_server.domain.face import Box
from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.tracks import SeenTrack
from face_server.errors import ConfigurationError, Unavailable
from face_server.video.composing import Composer, published_size
from face_server.video.encoding import secrets_of
from face_server.video.ffmpeg import FfmpegProcess, find_ffmpeg
from face_server.video.overlay import Overlay
from face_server.video.pacing import FrameRate, Pacer
from face_server.video.scene import draw_scene

from .publishing import children, frame_of, is_ffmpeg, track_at, until

CLOCK = SystemClock()


@pytest.mark.parametrize("fps", [5.0, 12.5, 25.0, 30000 / 1001, 60.0])
def test_rate_of_a_source(fps: float) -> None:
    """The rate is known within two seconds, whatever frames are lost and however times tremble, and lost after a new connection."""
    rate = FrameRate()
    assert rate.value == 0
    generator = np.random.default_rng(1)
    for number in range(round(2.5 * fps) + 1):
        if number % 7:
            rate.add(number, number / fps + generator.uniform(-0.001, 0.001))
    assert rate.value == pytest.approx(fps, rel=1e-9)
    rate.add(0, 10.0)
    assert rate.value == 0


def test_an_uncommon_rate_stays_what_it_is() -> None:
    """A source of 9.3 frames a second is no source of 10."""
    rate = FrameRate()
    for number in range(30):
        rate.add(number, number / 9.3)
    assert rate.value == pytest.approx(9.3)


def drive(times: list[float], fps: float) -> list[tuple[float, float]]:
    """Capture time and slot time of each frame that got a slot, where frames arrive 50 ms after they were made."""
    pacer, filled, shown = Pacer(fps), 0, []
    for before, at in pairwise([times[0], *times]):
        now = before + 0.05
        while (now := now + 1 / fps) < at + 0.05:
            filled += pacer.silence(now)
        slots = pacer.frame(at, at + 0.05)
        filled += slots
        if slots:
            shown.append((at, filled / fps))
    return shown


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([5.0, 15.0, 25.0]), st.sampled_from([5.0, 25.0, 30.0]), st.integers(0, 2**32 - 1))
def test_slots_follow_the_clock_of_the_source(fps: float, source_fps: float, seed: int) -> None:
    """For any rates, tremor and losses, video time runs as capture time does: never more than a few slots apart."""
    generator = np.random.default_rng(seed)
    times = [number / source_fps + generator.uniform(-0.2, 0.2) / source_fps for number in range(round(8 * source_fps))]
    times = [at for at in times if generator.random() > 0.1]
    shown = drive(times, fps)
    apart = [(slot - shown[0][1]) - (at - shown[0][0]) for at, slot in shown]
    assert max(map(abs, apart)) <= 2.0 / min(fps, source_fps) + 1e-6
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(shown))


def test_a_steady_source_fills_each_slot_once() -> None:
    """At the rate of the source, with a tremor of a quarter slot, no picture is repeated and none is lost."""
    generator = np.random.default_rng(5)
    pacer = Pacer(25)
    slots = [pacer.frame(number / 25 + generator.uniform(-0.01, 0.01), number / 25 + 0.1) for number in range(500)]
    assert set(slots) == {1}


def test_silence_is_filled_at_the_rate() -> None:
    """When no frames come, time fills the slots; the next frame follows in time."""
    pacer = Pacer(25)
    assert pacer.frame(100.0, 100.2) == 1
    filled = sum(pacer.silence(100.2 + step * 0.04) for step in range(1, 101))
    assert filled == pytest.approx(100, abs=2)
    assert pacer.frame(104.08, 104.28) in {1, 2, 3}


def test_a_clock_set_anew_stops_nothing() -> None:
    """After a jump of the source's clock by an hour the next frame takes the next slot."""
    pacer = Pacer(25)
    pacer.frame(100.0, 100.2)
    assert pacer.frame(3700.0, 100.24) == 1
    assert pacer.frame(5.0, 100.28) == 1
    assert pacer.frame(5.04, 100.32) == 1


def boxes(tracks: list[SeenTrack]) -> list[tuple[float, ...]]:
    """Corners of the boxes."""
    return [(box.x1, box.y1, box.x2, box.y2) for box in (seen.track.detection.box for seen in tracks)]


def test_boxes_move_on_between_analysed_frames() -> None:
    """A face that moves 100 pixels a second is 10 pixels on after 0.1 s, in the size of the picture it is drawn on."""
    overlay = Overlay()
    for step in range(6):
        overlay.show([track_at(1, Box(100 + 20 * step, 50, 200 + 20 * step, 150), step * 0.2)], width=1000, height=500, at=step * 0.2)
    assert boxes(overlay.at(1.0, width=1000, height=500)) == [pytest.approx((200, 50, 300, 150), abs=0.01)]
    assert boxes(overlay.at(1.1, width=1000, height=500)) == [pytest.approx((210, 50, 310, 150), abs=1)]
    assert boxes(overlay.at(1.1, width=500, height=250)) == [pytest.approx((105, 25, 155, 75), abs=1)]
    overlay.show([], width=1000, height=500, at=1.2)
    assert overlay.at(1.2, width=1000, height=500) == []


def test_boxes_vanish_after_a_second() -> None:
    """Who was not found for a second is marked no more: neither when analysis stops nor when only predictions come."""
    overlay = Overlay()
    overlay.show([track_at(1, Box(0, 0, 10, 10), 10.0)], width=100, height=100, at=10.0)
    assert len(overlay.at(10.9, width=100, height=100)) == 1
    assert overlay.at(11.1, width=100, height=100) == []
    for at in (10.2, 10.4, 10.6, 10.8):
        overlay.show([track_at(1, Box(0, 0, 10, 10), 10.0, missed=3)], width=100, height=100, at=at)
    assert len(overlay.at(10.9, width=100, height=100)) == 1
    assert overlay.at(11.1, width=100, height=100) == []


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ((1920, 1080), (1920, 1080)),
        ((3840, 2160), (1920, 1080)),
        ((2048, 1536), (1440, 1080)),
        ((1080, 1920), (1080, 1920)),
        ((641, 361), (640, 360)),
        ((3, 5), (16, 16)),
    ],
)
def test_sizes(source: tuple[int, int], sent: tuple[int, int]) -> None:
    """Streams keep their size and shape; larger ones are scaled to full HD, odd sides made even."""
    assert published_size(*source, max_long_px=1920, max_short_px=1080) == sent


def scaling_frame(pixels: Pixels) -> Frame:
    """A frame that scales as a decoder does."""
    height, width = pixels.shape[:2]
    return Frame(0, (width, height), lambda w, h: cv2.resize(pixels, (w, h)).astype(np.uint8), captured_at=0, taken_at=0, position_s=0)


@pytest.mark.parametrize("size", [(641, 361), (1300, 730), (640, 360), (361, 641), (320, 180), (100, 100)])
@pytest.mark.parametrize("converted", [False, True])
def test_pictures_fit_the_encoder(size: tuple[int, int], converted: bool) -> None:
    """A frame of any size becomes one of the encoder's, centred, undistorted, with black bars where its shape differs."""
    frame = scaling_frame(np.full((size[1], size[0], 3), 200, np.uint8))
    if converted:
        frame.image()
    composer = Composer(640, 360, draw=lambda pixels, *_: pixels.copy(), overlay=Overlay(), title="")
    light = np.frombuffer(composer.frame(frame), np.uint8).reshape(540, 640)[:360] > 150
    scale = min(640 / size[0], 360 / size[1])
    assert light.any(axis=0).sum() == pytest.approx(size[0] * scale, abs=2)
    assert light.any(axis=1).sum() == pytest.approx(size[1] * scale, abs=2)
    assert light[180, 320]


def test_card_is_drawn_once_a_second() -> None:
    """While the camera is away the buffer changes with the clock only, and a frame after it is drawn again."""
    composer = Composer(320, 180, draw=draw_scene, overlay=Overlay(), title="door")
    first = bytes(composer.card(None, 100.2))
    assert bytes(composer.card(None, 100.9)) == first
    assert bytes(composer.card(None, 101.1)) != first
    assert bytes(composer.frame(scaling_frame(np.full((180, 320, 3), 90, np.uint8)))) != first
    assert bytes(composer.card(None, 100.9)) == first


def test_secrets_of_a_url() -> None:
    """User, password, host, path parts and query of a URL are all kept out of what is told."""
    secrets = secrets_of("rtmp://ann:p%40ss@media.example:1935/live/key123?sign=abc")
    assert {"ann", "p@ss", "p%40ss", "key123", "sign=abc"} <= set(secrets)


def test_where_ffmpeg_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured program comes first, then PATH, then the wheel's; a configured one that is not there is refused."""
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_ffmpeg(Path(sys.executable)) == Path(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == own
    monkeypatch.setenv("PATH", "/nowhere")
    assert "imageio_ffmpeg" in str(find_ffmpeg())
    with pytest.raises(ConfigurationError, match="missing"):
        find_ffmpeg(tmp_path / "missing")


@pytest.fixture
def busy() -> Iterator[FfmpegProcess]:
    """An ffmpeg that encodes what comes to nowhere."""
    process = FfmpegProcess(
        find_ffmpeg(), ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "64x64", "-r", "25", "-i", "pipe:0", "-f", "null", "-"], CLOCK
    )
    yield process
    process.end()


async def test_process_counts_what_it_has_sent(busy: FfmpegProcess) -> None:
    """Pictures written come out as frames of progress; ending it is clean and can be repeated."""
    picture = np.zeros((64, 64), np.uint8).data
    for _ in range(50):
        assert busy.write(picture, stall_s=5, keep_on=lambda: True)
    await until(lambda: busy.listen() or busy.frames > 0, 5)
    busy.end()
    assert busy.returncode == 0
    busy.end()
    with pytest.raises(ValueError, match="closed"):
        busy.write(picture, stall_s=1, keep_on=lambda: True)


def test_process_that_takes_nothing(busy: FfmpegProcess) -> None:
    """A stopped process is noticed after the stall time, interrupts when asked to, and is killed in a moment."""
    os.kill(busy.pid, signal.SIGSTOP)
    megabytes = np.zeros(4 << 20, np.uint8).data
    assert not busy.write(megabytes, stall_s=5, keep_on=lambda: False)
    begun = time.monotonic()
    with pytest.raises(Unavailable) as stalled:
        busy.write(megabytes, stall_s=0.5, keep_on=lambda: True)
    assert stalled.value.code == "publish_stalled"
    assert 0.4 < time.monotonic() - begun < 2
    begun = time.monotonic()
    busy.end()
    assert time.monotonic() - begun < 1.5
    assert not is_ffmpeg(busy.pid)
    assert busy.pid not in children()


def test_process_that_fails_tells_why_without_secrets() -> None:
    """What ffmpeg complains about is kept for the diagnosis; addresses and keys in it are not."""
    url = "rtmp://ann:s3cret@127.0.0.1:1/live/k3y"
    process = FfmpegProcess(find_ffmpeg(), ["-f", "lavfi", "-i", "testsrc", "-f", "flv", url], CLOCK, secrets=secrets_of(url))
    for _ in range(200):
        if process.returncode is not None:
            break
        time.sleep(0.05)
    process.end()
    told = "\n".join(process.tail)
    assert "refused" in told
    assert "s3cret" not in told
    assert "k3y" not in told
    assert "127.0.0.1" not in told


def test_program_that_cannot_run(tmp_path: Path) -> None:
    """A file that is no program is an error in one sentence."""
    program = tmp_path / "ffmpeg"
    program.write_bytes(b"\x00no program")
    program.chmod(0o755)

    def feed() -> None:
        process = FfmpegProcess(program, [], CLOCK)
        try:
            # Where a launcher stands before the program, the launcher starts and fails.
            for _ in range(100):
                process.write(np.zeros(1 << 20, np.uint8).data, stall_s=5, keep_on=lambda: True)
        finally:
            process.end()

    with pytest.raises(Unavailable, match=r"cannot be started|has ended"):
        feed()


def test_frame_of_is_as_old_as_it_says() -> None:
    """The frames of these tests tell when they were made in both clocks."""
    at = CLOCK.monotonic() - 1.0
    assert frame_of(np.zeros((4, 4, 3), np.uint8), 0, at, CLOCK).taken_at == pytest.approx(CLOCK.now() - 1.0, abs=0.05)

"""Decoded pictures become the right pixels."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from av.video.frame import VideoFrame

from face_server.domain.image import Pixels
from face_server.video.pyav_connection import Converter

SIZE = (128, 96)
# Colours that differ most between matrices and ranges, and greys.
BARS = [(30, 30, 200), (30, 200, 30), (200, 30, 30), (120, 160, 220), (250, 250, 250), (5, 5, 5), (128, 128, 128), (200, 200, 60)]


@pytest.fixture(scope="session")
def bars() -> Pixels:
    """Vertical bars of skin, primary colours and greys, BGR."""
    return np.repeat(np.repeat(np.uint8([BARS]), SIZE[1], 0), SIZE[0] // len(BARS), 1)


def encode(pixels: Pixels, file: Path, *options: str) -> None:
    """Write pixels as a lossless H.264 picture with FFmpeg itself."""
    line = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "{}x{}".format(*SIZE), "-i", "-"]
    subprocess.run([*line, *options, "-c:v", "libx264", "-qp", "0", "-y", str(file)], input=pixels.tobytes(), check=True)


def decode(file: Path) -> VideoFrame:
    """Its first picture."""
    with av.open(str(file)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("span", ["tv", "pc"])
def test_matrix_and_range_are_those_of_the_stream(bars: Pixels, tmp_path: Path, matrix: str, span: str) -> None:
    """Colours come back as they went in, whatever the stream encodes them with; a wrong matrix would be off by 20 and more."""
    file = tmp_path / "bars.mp4"
    name = {"smpte170m": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)
    scale = f"scale=out_color_matrix={name}:out_range={span}:flags=accurate_rnd+full_chroma_int,format=yuv420p"
    encode(bars, file, "-vf", scale, "-colorspace", matrix, "-color_range", span)
    pixels = Converter(decode(file))(*SIZE)
    # Bars without their edges, over which chroma is shared.
    inner = np.abs(pixels.astype(int) - bars)[:, [8 + 16 * bar for bar in range(len(BARS))]]
    assert inner.max() <= 4


def test_without_a_stated_matrix_it_is_the_same_as_opencv(bars: Pixels) -> None:
    """OpenCV's conversion is BT.601 with limited range, which is what FFmpeg assumes."""
    planes = np.asarray(cv2.cvtColor(bars, cv2.COLOR_BGR2YUV_I420), np.uint8)
    frame = VideoFrame.from_ndarray(planes, format="yuv420p")
    there = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
    assert np.abs(Converter(frame)(*SIZE).astype(int) - there).max() <= 3


@pytest.mark.parametrize("size", [(640, 360), (333, 187)])
def test_other_sizes_are_close_to_resizing_afterwards(videos: Path, size: tuple[int, int]) -> None:
    """Scaling within the conversion is as good as OpenCV's by areas; rows with padding come out packed."""
    convert = Converter(decode(videos / "street_1080p.mp4"))
    pixels = convert(*size)
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - cv2.resize(convert(1920, 1080), size, interpolation=cv2.INTER_AREA)).mean() < 1.2


def test_many_threads_may_convert_one_picture(bars: Pixels) -> None:
    """Eight threads in three sizes get what one thread gets."""
    frame = VideoFrame.from_ndarray(np.asarray(cv2.cvtColor(bars, cv2.COLOR_BGR2YUV_I420), np.uint8), format="yuv420p")
    convert = Converter(frame)
    sizes = [SIZE, (64, 48), (32, 24)] * 40
    expected = {size: Converter(frame)(*size) for size in sizes[:3]}
    with ThreadPoolExecutor(8) as pool:
        for size, pixels in zip(sizes, pool.map(lambda size: convert(*size), sizes), strict=True):
            assert np.array_equal(pixels, expected[size])


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated_recordings_are_upright(bars: Pixels, tmp_path: Path, turn: int) -> None:
    """A phone's video that says how to turn it is turned as FFmpeg turns it."""
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    encode(bars, plain, "-pix_fmt", "yuv420p")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-display_rotation", str(turn), "-i", plain, "-c", "copy", turned], check=True)
    width, height = SIZE if turn == 180 else SIZE[::-1]
    shown = subprocess.run(
        [ffmpeg, "-v", "error", "-i", turned, "-f", "rawvideo", "-pix_fmt", "bgr24", "-frames:v", "1", "-"], check=True, capture_output=True
    )
    expected = np.frombuffer(shown.stdout, np.uint8).reshape(height, width, 3)
    assert np.abs(Converter(decode(turned))(width, height).astype(int) - expected).mean() < 3

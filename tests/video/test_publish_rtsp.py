"""Streams published by RTSP to a real server."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from face_server.clock import SystemClock
from face_server.video.publish import FfmpegView, PublishOptions
from face_server.video.scene import draw_scene

from .publishing import Camera, children, coded, free_port, noise, read_code, until

SCRIPT = Path(__file__).with_name("rtsp_recorder.py")
DEBIAN_PYTHON = Path("/usr/bin/python3")
OPTIONS = PublishOptions(away_s=0.7, stall_s=1.5, connect_s=3.0, backoff_s=0.2, max_kbps=20_000)


@dataclass
class Recorder:
    """An RTSP server that records."""

    url: str
    file: Path
    process: subprocess.Popen[bytes]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """A running one; what was published to it lies in ``file``."""
    port, file = free_port(), tmp_path / "received.ts"
    with subprocess.Popen([DEBIAN_PYTHON, SCRIPT, str(port), file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            pytest.skip("needs GStreamer's RTSP server (apt: python3-gi gir1.2-gst-rtsp-server-1.0)")
        yield Recorder(f"rtsp://127.0.0.1:{port}/cam", file, process)
        process.kill()


async def test_published_over_tcp(recorder: Recorder) -> None:
    """H.264 in the size of the source arrives, every picture after the one before it, at the source's rate."""
    view = FfmpegView(recorder.url, SystemClock(), draw_scene, OPTIONS)
    with Camera(view, lambda number, _: coded(320, 240, number)):
        await until(lambda: view.state == "publishing", 10)
        begun = time.monotonic()
        await until(lambda: time.monotonic() - begun > 3, 5)
        await view.close()
    recorder.process.send_signal(signal.SIGINT)
    recorder.process.wait(5)
    with av.open(recorder.file) as container:
        stream = container.streams.video[0]
        codes = [read_code(picture.to_ndarray(format="bgr24")) for picture in container.decode(stream)]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 240)
    assert len(codes) > 50
    assert np.mean(np.diff(codes) == 1) > 0.8


async def test_frozen_server(recorder: Recorder) -> None:
    """A server that takes nothing any more is noticed; closing is quick all the same and leaves no process."""
    view = FfmpegView(recorder.url, SystemClock(), draw_scene, OPTIONS)
    with Camera(view, noise(640, 360)):
        await until(lambda: view.state == "publishing", 10)
        recorder.process.send_signal(signal.SIGSTOP)
        await until(lambda: view.state.startswith("waiting"), 20)
        begun = time.monotonic()
        await view.close()
        assert time.monotonic() - begun < 2
    assert children() == set()

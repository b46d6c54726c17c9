"""A camera made of numbers and the media servers that its picture is published to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import numpy as np
import pytest

from face_server.clock import SystemClock
from face_server.domain.events import Who
from face_server.domain.face import Box, Detection
from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.stream_ports import LiveView
from face_server.domain.tracks import SeenTrack, Track

NGINX = Path("/usr/sbin/nginx")
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")

BITS = 16
GREY = 120

Paint = Callable[[int, float], Pixels]


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def coded(width: int, height: int, number: int) -> Pixels:
    """A grey picture whose upper edge tells ``number`` in black and white blocks."""
    pixels = np.full((height, width, 3), GREY, np.uint8)
    block = width // BITS
    for bit in range(BITS):
        pixels[: height // 8, bit * block : (bit + 1) * block] = 255 if number >> bit & 1 else 0
    return pixels


def read_code(pixels: Pixels) -> int:
    """The number that ``coded`` has painted."""
    height, width = pixels.shape[:2]
    block = width // BITS
    middle = [pixels[height // 16, bit * block + block // 2].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, level in enumerate(middle) if level > 128)


def noise(width: int, height: int) -> Paint:
    """Pictures that do not compress."""
    generator = np.random.default_rng(7)
    pool = [generator.integers(0, 255, (height, width, 3), np.uint8) for _ in range(4)]
    return lambda number, _: pool[number % 4]


def track_at(number: int, box: Box, at: float, who: Who | None = None, *, missed: int = 0) -> SeenTrack:
    """A track that was found at ``at``."""
    return SeenTrack(Track(number, Detection(box, 0.9, np.zeros((5, 2), np.float32)), at, at, 1, missed), who)


def frame_of(pixels: Pixels, number: int, at: float, clock: SystemClock) -> Frame:
    """A frame with these pixels whatever size is asked for, as of ``at`` (monotonic)."""
    height, width = pixels.shape[:2]
    taken_at = clock.now() - (clock.monotonic() - at)
    return Frame(number, (width, height), lambda _w, _h: pixels, captured_at=at, taken_at=taken_at, position_s=0.0)


class Camera:
    """Gives frames to a view from a thread of its own, as a source does: some late, some lost."""

    def __init__(self, view: LiveView, paint: Paint, *, fps: float = 25.0, jitter_s: float = 0.0, lost: float = 0.0) -> None:
        self.view, self.paint, self.fps = view, paint, fps
        self.jitter_s, self.lost = jitter_s, lost
        self.clock = SystemClock()
        self.slowest_take_s = 0.0
        self.on = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        generator = np.random.default_rng(3)
        begun_at = self.clock.monotonic()
        number = 0
        while not self._stop.is_set():
            at = begun_at + number / self.fps
            late = at + abs(float(generator.normal(0, 1))) * self.jitter_s
            self._stop.wait(max(0.0, late - self.clock.monotonic()))
            if self.on and generator.random() >= self.lost:
                frame = frame_of(self.paint(number, at - begun_at), number, at, self.clock)
                started = time.perf_counter()
                self.view.take(frame)
                self.slowest_take_s = max(self.slowest_take_s, time.perf_counter() - started)
            number += 1


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition; how long it took. Fails after ``seconds``."""
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is that of another process
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


def children() -> set[int]:
    """Ids of the ffmpeg processes that this process has started and that live."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return {pid for pid in found if is_ffmpeg(pid)}


def is_ffmpeg(pid: int) -> bool:
    """Whether a process is an ffmpeg that runs."""
    with suppress(OSError):
        return b"ffmpeg" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass
class RtmpServer:
    """A copy of nginx with the RTMP module on a port of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to publish, with a stream key that is a secret."""
        return f"rtmp://127.0.0.1:{self.port}/live/s3cretkey"

    def start(self) -> None:
        """Run it; returns when it listens."""
        config = self.folder / "nginx.conf"
        config.write_text(
            f"load_module {RTMP_MODULE};\ndaemon off;\nmaster_process off;\n"
            f"error_log {self.folder}/error.log;\npid {self.folder}/nginx.pid;\n"
            "events { worker_connections 64; }\n"
            f"rtmp {{ server {{ listen 127.0.0.1:{self.port}; application live {{ live on; idle_streams on; }} }} }}\n"
        )
        (self.folder / "logs").mkdir(exist_ok=True)
        self.process = subprocess.Popen([NGINX, "-p", self.folder, "-c", config], stderr=subprocess.DEVNULL)
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "error.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def read(self, seconds: float) -> list[tuple[float, Pixels]]:
        """What a viewer gets: for that much video the time (s) and BGR pixels of each frame."""
        with av.open(self.url, timeout=5, options={"analyzeduration": "300000"}) as container:
            stream = container.streams.video[0]
            pictures: list[tuple[float, Pixels]] = []
            for picture in container.decode(stream):
                pictures.append((float(picture.time), picture.to_ndarray(format="bgr24")))
                if pictures[-1][0] - pictures[0][0] >= seconds:
                    break
        return pictures


@contextmanager
def rtmp_server(folder: Path) -> Iterator[RtmpServer]:
    """A running RTMP server."""
    if not (NGINX.exists() and RTMP_MODULE.exists()):
        pytest.skip("needs nginx with its RTMP module (apt: nginx-light libnginx-mod-rtmp)")
    server = RtmpServer(folder, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()

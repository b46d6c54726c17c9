"""Cameras made of a video file that need nothing but this process, and know how many watch them."""

from __future__ import annotations

import asyncio
import threading
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np

from face_server.pipeline.self_test import drawn_face
from face_server.video.demo_camera import DemoCamera

_FPS = 10
_START_S = 30.0


def draw_visits(file: Path, *, here_s: float = 1.5, away_s: float = 1.5, visits: int = 4) -> Path:
    """A video in which a drawn face comes and goes ``visits`` times."""
    face, (height, width) = drawn_face(), (360, 640)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"g": str(_FPS), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", Fraction(1, _FPS)
        for visit in range(visits):
            x = (width - face.shape[1]) * visit // max(1, visits - 1)
            for number in range(round((here_s + away_s) * _FPS)):
                picture = np.full((height, width, 3), (150, 140, 130), np.uint8)
                if number < here_s * _FPS:
                    picture[20 : 20 + face.shape[0], x : x + face.shape[1]] = face
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    return file


class CameraThread:
    """``count`` cameras that play ``file`` for ever, in a thread of their own."""

    def __init__(self, file: Path, count: int = 1) -> None:
        self._cameras = [DemoCamera(file) for _ in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cameras", daemon=True)

    @property
    def urls(self) -> list[str]:
        """Where they are seen."""
        return [camera.url for camera in self._cameras]

    @property
    def viewers(self) -> list[int]:
        """How many watch each of them now."""
        return [camera.viewers for camera in self._cameras]

    def __enter__(self) -> Self:
        self._thread.start()
        for camera in self._cameras:
            asyncio.run_coroutine_threadsafe(camera.start(), self._loop).result(_START_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for camera in self._cameras:
            asyncio.run_coroutine_threadsafe(camera.stop(), self._loop).result(_START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

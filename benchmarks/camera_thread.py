"""Cameras made of a video file that need nothing but this process, and know how many watch them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Self

from face_server.video.demo_camera import DemoCamera

_START_S = 30.0


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

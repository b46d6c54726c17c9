"""A source decoded on the GPU by OpenCV's cudacodec, where the OpenCV build has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from face_server.domain.frame import SourceInfo
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock
from face_server.errors import SourceFailed
from face_server.video.camera_addresses import existing_file, is_device, is_file, resolve_and_check
from face_server.video.capture_options import CaptureOptions
from face_server.video.reader import Decoded, Progress
from face_server.video.source_clock import SourceClock, Timing, Unpaced

# OpenCV's type stubs are those of builds without CUDA.
_OPENCV: Any = cv2


def why_unavailable() -> str:
    """What this machine lacks to decode on a GPU; empty if nothing."""
    if not hasattr(_OPENCV, "cudacodec"):
        return "mode gpu needs an OpenCV built with CUDA and cudacodec, this one is not; use mode cpu"
    if _OPENCV.cuda.getCudaEnabledDeviceCount() < 1:
        return "mode gpu needs a CUDA device, this machine has none; use mode cpu"
    return ""


class CudacodecConnection:
    """One connection through cudacodec. Pictures stay on the GPU until somebody converts them; they are scaled there.

    cudacodec states no time stamps with its pictures, so they count as made when they arrive.
    """

    def __init__(self, url: str, options: CaptureOptions, clock: Clock) -> None:
        self._url = url
        self._options = options
        self._clock = clock
        self._reader: Any = None

    def open(self) -> SourceInfo:
        """See Connection. Raises SourceFailed (source_codec, needs_operator) where the GPU cannot be used."""
        if reason := why_unavailable():
            raise SourceFailed(reason, code="source_codec", needs_operator=True)
        if is_file(self._url):
            address = str(existing_file(self._url, self._options))
        else:
            address = self._url
            if not is_device(address):
                resolve_and_check(address, self._options)
        try:
            self._reader = _OPENCV.cudacodec.createVideoReader(address)
            form = self._reader.format()
        except cv2.error as error:
            raise SourceFailed("the GPU cannot open or decode the source", code="source_codec") from error
        return SourceInfo(int(form.width), int(form.height), max(0.0, float(form.fps)), "gpu", live=not is_file(self._url))

    def timing(self) -> Timing:
        """See Connection."""
        return Unpaced() if is_file(self._url) else SourceClock()

    def pictures(self, progress: Progress, behind: Callable[[float | None], bool]) -> Iterator[Decoded]:  # noqa: ARG002 - cudacodec drops by itself
        """See Connection."""
        while True:
            progress.blocked_since = self._clock.monotonic()
            begun = time.perf_counter()
            try:
                some, picture = self._reader.nextFrame()
            except cv2.error as error:
                raise SourceFailed("the GPU cannot decode what the source sends", code="source_garbled") from error
            if not some:
                break
            width, height = picture.size()
            yield Decoded((width, height), _Converter(picture), None, time.perf_counter() - begun > 0.001, 0)
        if not is_file(self._url):
            raise SourceFailed("the camera ended the connection", code="source_lost")

    def close(self) -> None:
        """See Connection."""
        self._reader = None


class _Converter:
    """Scales on the GPU, then downloads. cudacodec's pictures are BGRA."""

    __slots__ = ("_lock", "_picture")

    def __init__(self, picture: Any) -> None:
        self._picture = picture
        self._lock = threading.Lock()

    def __call__(self, width: int, height: int) -> Pixels:
        with self._lock:
            picture = self._picture
            if picture.size() != (width, height):
                picture = _OPENCV.cuda.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            return np.ascontiguousarray(picture.download()[:, :, :3], np.uint8)

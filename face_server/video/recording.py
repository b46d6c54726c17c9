"""A whole video file that somebody sent, read frame by frame in the calling thread."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from face_server.clock import SystemClock
from face_server.domain.frame import Frame
from face_server.domain.streams import Transport
from face_server.errors import InvalidInput, SourceFailed
from face_server.video.capture_options import CaptureOptions
from face_server.video.pyav_connection import PyavConnection
from face_server.video.reader import Progress

_USUAL_FPS: Final = 25.0
"""FFmpeg's own guess where neither pictures nor file say anything."""


def recorded_frames(data: NDArray[Any]) -> Generator[Frame, None, None]:
    """Every frame of the video file ``data`` (uint8, one dimension), in order, its pixels converted only where asked for.

    The file lies on disk for as long as the iterator lives, since FFmpeg jumps about in it; close
    the iterator. One frame at a time is decoded. Raises InvalidInput (``field`` video) for what is
    no video, for one that cannot be read on, and for one without a single picture.
    """
    with tempfile.TemporaryDirectory(prefix="video-") as folder:
        file = Path(folder) / "file"
        data.tofile(file)
        connection = PyavConnection(str(file), CaptureOptions(media_folders=(Path(folder),)), SystemClock(), Transport.TCP)
        with closing(connection):
            yield from _frames(connection)


def _frames(connection: PyavConnection) -> Generator[Frame, None, None]:
    try:
        fps = connection.open().fps or _USUAL_FPS
    except SourceFailed as error:
        codec = error.code == "source_codec"
        what = "the video has no picture track whose codec is supported" if codec else "the data is not a video in a known format"
        raise _refusal(what) from error
    number, first_s = 0, None
    try:
        for picture in connection.pictures(Progress(), lambda _media_s: False):
            number += picture.skipped
            media_s = picture.media_s
            if media_s is not None and first_s is None:
                first_s = media_s
            position_s = number / fps if media_s is None or first_s is None else max(0.0, media_s - first_s)
            yield Frame(number, picture.size, picture.convert, captured_at=0.0, taken_at=0.0, position_s=position_s)
            number += 1
    except SourceFailed as error:
        raise _refusal("the video breaks off") from error
    if not number:
        raise _refusal("the video holds no picture that can be decoded")


def _refusal(message: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_video", field="video")

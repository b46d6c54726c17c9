"""What a camera that went away leaves behind in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from benchmarks.cameras import CameraStandIn
from face_server.clock import SystemClock
from face_server.errors import SourceFailed
from face_server.video.capture import CaptureOptions, PyavSource

KINDS = (InputContainer, VideoCodecContext, VideoFrame)


def held() -> set[str]:
    """Which of them are alive."""
    return {type(one).__name__ for one in gc.get_objects() if isinstance(one, KINDS)}


async def test_a_lost_camera_leaves_no_decoder_behind(start_camera: Callable[..., CameraStandIn]):
    """Decoder and pictures, 25 MB at 1080p, go with the connection, not when garbage is collected some day."""
    camera = start_camera()
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    gc.collect()
    gc.disable()
    try:
        source = PyavSource(camera.url, CaptureOptions(), SystemClock())
        await source.open(lambda _: loop.call_soon_threadsafe(seen.set))
        await asyncio.wait_for(seen.wait(), 5)
        assert {"InputContainer", "VideoCodecContext"} <= held()
        camera.kill()
        with pytest.raises(SourceFailed):
            await source.ended()
        await source.close()

        assert held() == set()
    finally:
        gc.enable()

"""The one callback that the face server's API promises for a face that was added."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Protocol

import pybase64

from face_server.errors import FaceServerError

_log = logging.getLogger(__name__)

_TASK_ID = "-1"
_MAX_CALLS = 32


class Callback(Protocol):
    """A receiver of the gRPC callback."""

    async def call(self, task_id: str, result: str) -> None:
        """Call it once. Raises Unavailable or DeliveryRefused."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class FaceCallbacks:
    """Calls receivers in the background, once: what fails is logged and not tried again.

    ``open_callback`` makes a callback of an address, or raises InvalidInput. At most 32 calls go on
    at once; more are dropped, and logged.
    """

    def __init__(self, open_callback: Callable[[str], Callback]) -> None:
        self._open_callback = open_callback
        self._calls: set[asyncio.Task[None]] = set()

    def tell(self, address: str, name: str, crop_jpeg: bytes) -> None:
        """Tell whoever serves the callback at ``address`` (``host:port``) that a face was added. Returns at once."""
        if len(self._calls) >= _MAX_CALLS:
            _log.warning("a callback for an added face was dropped: %d are on their way", _MAX_CALLS)
            return
        text = json.dumps({"face_img_base64": pybase64.b64encode(crop_jpeg).decode("ascii"), "face_name": name})
        call = asyncio.create_task(self._call(address, text), name="callback for an added face")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def close(self) -> None:
        """Drop what is on its way. Idempotent."""
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def _call(self, address: str, text: str) -> None:
        try:
            callback = self._open_callback(address)
            try:
                await callback.call(_TASK_ID, text)
            finally:
                await callback.close()
        except FaceServerError as error:
            _log.warning("a callback for an added face failed: %s", error.message)

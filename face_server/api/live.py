"""Answers without an end: they hold what they show for exactly as long as somebody listens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

_ENDLESS = re.compile(r"/v1/streams/[^/]+/preview\.mjpeg")


class LiveResponse(Response):
    """Streams what ``opened`` yields, each item made into bytes by ``encode``.

    ``opened`` is entered when the answer begins and left when the client goes away; an error on
    entering becomes an ordinary problem.
    """

    def __init__(
        self,
        opened: AbstractAsyncContextManager[AsyncIterator[T]],
        encode: Callable[[T], bytes],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type=media_type)
        self._opened = opened
        self._encode = encode
        self._fields = {"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with self._opened as items:
            parts = (self._encode(item) async for item in items)
            await StreamingResponse(parts, media_type=self.media_type, headers=self._fields)(scope, receive, send)


def is_endless(scope: Scope) -> bool:
    """Whether the answer to a request may last for days: it then takes nobody's turn and has a bound of its own."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    if scope["path"] == "/v1/events":
        return any(name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"])
    return _ENDLESS.fullmatch(scope["path"]) is not None

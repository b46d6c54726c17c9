"""Answers without an end: they hold what they show for exactly as long as somebody listens and the server serves."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Generic, TypeVar

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from face_server.errors import FaceServerError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ENDLESS = re.compile(r"/v1/streams/[^/]+/preview\.mjpeg")


class LiveResponse(Response, Generic[T]):
    """Streams what ``opened`` yields, each item made into bytes by ``encode``.

    ``opened`` is entered when the answer begins and left when the client goes away or the server
    shuts down (``app.state.leaving`` is set); an error on entering becomes an ordinary problem.
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
        leaving: asyncio.Event = scope["app"].state.leaving
        async with self._opened as items, aclosing(until_set(leaving, items)) as shown, aclosing(self._encoded(shown)) as parts:
            await StreamingResponse(parts, media_type=self.media_type, headers=self._fields)(scope, receive, send)

    async def _encoded(self, items: AsyncIterator[T]) -> AsyncGenerator[bytes, None]:
        """What cannot go on ends: the status is long sent, and the client asks anew."""
        try:
            async for item in items:
                yield self._encode(item)
        except FaceServerError as error:
            _log.warning("a live answer ended: %s", error.message)


async def until_set(end: asyncio.Event, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """``items``, but none after ``end``."""
    ended = asyncio.ensure_future(end.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(items))
            try:
                await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Waited for, so that whoever closes ``items`` does not find them at work.
                coming.cancel()
                await asyncio.wait({coming})
            if ended.done() or coming.cancelled():
                return
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        ended.cancel()


async def beating(items: AsyncIterator[T], every_s: float) -> AsyncGenerator[T | None, None]:
    """``items``, with None at first and whenever there were none for ``every_s``: so dead connections are noticed.

    Waiting for the next of ``items`` must lose none when it is cancelled.
    """
    yield None
    while True:
        try:
            async with asyncio.timeout(every_s):
                item: T | None = await anext(items)
        except TimeoutError:
            item = None
        except StopAsyncIteration:
            return
        yield item


def is_endless(scope: Scope) -> bool:
    """Whether the answer to a request may last for days: it then takes nobody's turn and has a bound of its own."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    if scope["path"] == "/v1/events":
        return any(name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"])
    return _ENDLESS.fullmatch(scope["path"]) is not None

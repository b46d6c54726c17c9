"""Request bodies: bounded in size, in time and in total."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from face_server.api.middleware.admission import is_exempt
from face_server.errors import InputTooLarge, InvalidInput, Overloaded

# An oversized body is read and dropped up to this many times the limit, so that clients that send
# all of it before they listen still see the answer.
_DRAIN_FACTOR = 4

_STREAMED = re.compile(r"/v1/collections/[^/]+/import")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds of request bodies.

    A body has at most ``max_bytes`` and arrives within ``timeout_s``; all bodies in memory together
    have at most ``max_buffered_bytes``. Streamed bodies (imports) have at most ``max_streamed_bytes``,
    and ``timeout_s`` is the longest silence between two pieces.
    """

    max_bytes: int
    timeout_s: float
    max_buffered_bytes: int
    max_streamed_bytes: int


def is_streamed(scope: Scope) -> bool:
    """Whether the route reads its body piece by piece instead of as a whole."""
    return _STREAMED.fullmatch(scope["path"]) is not None


class Bodies:
    """Reads the whole body before the route starts; a route never waits for a slow client."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Raises InputTooLarge, InvalidInput ``body_timeout`` and Overloaded."""
        if is_exempt(scope):
            await self._app(scope, receive, send)
        elif is_streamed(scope):
            await self._app(scope, self._counted(scope, receive), send)
        else:
            await self._buffer(scope, receive, send)

    async def _buffer(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _content_length(scope)
        if length > self._limits.max_bytes:
            await self._drain(scope, receive, length)
            raise self._too_large(self._limits.max_bytes)
        pieces: list[bytes] = []
        try:
            if not await self._collect(scope, receive, pieces):
                return
            body = b"".join(pieces)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._buffered -= sum(map(len, pieces))

    async def _collect(self, scope: Scope, receive: Receive, pieces: list[bytes]) -> bool:
        """Append the body's pieces to ``pieces``; False when the client left."""
        size = 0
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    piece = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(piece)
                    if size > self._limits.max_bytes:
                        await self._drain(scope, receive, size if more else 0)
                        raise self._too_large(self._limits.max_bytes)
                    if self._buffered + len(piece) > self._limits.max_buffered_bytes:
                        raise Overloaded("too many large requests are in memory at once; retry later", retry_after_s=1.0)
                    self._buffered += len(piece)
                    pieces.append(piece)
        except TimeoutError as error:
            raise self._too_slow(f"the body did not arrive within {self._limits.timeout_s:g} s") from error
        return True

    async def _drain(self, scope: Scope, receive: Receive, length: int) -> None:
        """Read and drop the rest of a body that will be refused, within bounds."""
        budget = _DRAIN_FACTOR * self._limits.max_bytes
        if not 0 < length <= budget or "expect" in Headers(scope=scope):
            return
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while budget > 0:
                    message = await receive()
                    budget -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        limits = self._limits
        if _content_length(scope) > limits.max_streamed_bytes:
            raise self._too_large(limits.max_streamed_bytes)
        size = 0

        async def counted() -> Message:
            nonlocal size
            try:
                async with asyncio.timeout(limits.timeout_s):
                    message = await receive()
            except TimeoutError as error:
                raise self._too_slow(f"nothing of the body arrived for {limits.timeout_s:g} s") from error
            size += len(message.get("body", b""))
            if size > limits.max_streamed_bytes:
                raise self._too_large(limits.max_streamed_bytes)
            return message

        return counted

    @staticmethod
    def _too_large(limit: int) -> InputTooLarge:
        return InputTooLarge(f"the body is larger than the limit of {limit} bytes", field="body")

    @staticmethod
    def _too_slow(sentence: str) -> InvalidInput:
        return InvalidInput(sentence, code="body_timeout", field="body")


class Cancellation:
    """Cancels the work of a request whose client has left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Raises ClientDisconnect when its work was cancelled."""
        if is_exempt(scope) or is_streamed(scope):
            await self._app(scope, receive, send)
            return
        first = await receive()
        gone = asyncio.Event()
        answered = False
        delivered = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async def replay() -> Message:
            nonlocal delivered
            if not delivered:
                delivered = True
                return first
            await gone.wait()
            return {"type": "http.disconnect"}

        async def tracked(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        watcher = asyncio.create_task(watch())
        work = asyncio.ensure_future(self._app(scope, replay, tracked))
        try:
            await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answered:
                work.cancel()
                await asyncio.wait({work})
                if work.cancelled():
                    raise ClientDisconnect
            await work
        finally:
            watcher.cancel()
            work.cancel()
            await asyncio.wait({work, watcher})


def _content_length(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    delivered = False

    async def replay() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

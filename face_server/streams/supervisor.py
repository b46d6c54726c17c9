"""Runs every stream of this process, each as if it were alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec, StreamStatus
from face_server.errors import NotFound, Overloaded, Unavailable
from face_server.streams.parts import StreamParts
from face_server.streams.patience import spawn
from face_server.streams.stream import StreamOptions, SupervisedStream
from face_server.streams.viewing import Seats


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """``max_streams`` counts those that run or try to."""

    max_streams: int = 64
    stream: StreamOptions = field(default_factory=StreamOptions)


class Supervisor:
    """``StreamRunner`` in this process.

    What a caller began is finished even if the caller goes away meanwhile: a half stopped stream
    would be nobody's.
    """

    def __init__(
        self, parts: StreamParts, clock: Clock, options: SupervisorOptions | None = None, chance: random.Random | None = None
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._options = options or SupervisorOptions()
        # Chance spreads reconnects over time; nobody must not be able to guess it.
        self._chance = chance or random.Random()  # noqa: S311 - see above
        self._seats = Seats(self._options.stream.viewing.max_viewers)
        self._streams: dict[str, SupervisedStream] = {}
        self._closed = False

    async def start(self, spec: StreamSpec) -> None:
        """See ``StreamRunner.start``."""
        if self._closed:
            raise Unavailable("the service is stopping", code="stopping")
        while not await asyncio.shield(self._find_or_make(spec).start(spec)):
            # It was being forgotten: another one takes its place.
            self._streams.pop(spec.id, None)

    async def stop(self, stream_id: str) -> None:
        """See ``StreamRunner.stop``."""
        await asyncio.shield(spawn(self._stream(stream_id).stop(), f"stopping {stream_id}"))

    async def forget(self, stream_id: str) -> None:
        """See ``StreamRunner.forget``."""
        await asyncio.shield(spawn(self._forget(self._stream(stream_id)), f"forgetting {stream_id}"))

    async def restart(self, stream_id: str) -> None:
        """See ``StreamRunner.restart``."""
        stream = self._stream(stream_id)
        self._make_room(stream)
        if not await stream.restart():
            raise NotFound(f"there is no stream {stream_id!r}")

    def status(self, stream_id: str) -> StreamStatus:
        """See ``StreamRunner.status``."""
        return self._stream(stream_id).status()

    def statuses(self) -> list[StreamStatus]:
        """See ``StreamRunner.statuses``."""
        return [self._streams[stream_id].status() for stream_id in sorted(self._streams)]

    async def snapshot(self, stream_id: str, *, annotated: bool = True) -> bytes:
        """See ``StreamRunner.snapshot``."""
        return await self._stream(stream_id).viewing.snapshot(annotated=annotated)

    def preview(self, stream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See ``StreamRunner.preview``."""
        return self._stream(stream_id).viewing.preview()

    async def close(self) -> None:
        """Stop every stream, all at once. Idempotent."""
        self._closed = True
        streams = list(self._streams.values())
        self._streams.clear()
        await asyncio.gather(*(stream.close() for stream in streams))

    async def _forget(self, stream: SupervisedStream) -> None:
        await stream.close()
        if self._streams.get(stream.spec.id) is stream:
            del self._streams[stream.spec.id]

    def _find_or_make(self, spec: StreamSpec) -> SupervisedStream:
        stream = self._streams.get(spec.id)
        self._make_room(stream)
        if stream is None:
            stream = SupervisedStream(spec, self._parts, self._clock, self._options.stream, self._seats, self._chance)
            self._streams[spec.id] = stream
        return stream

    def _make_room(self, stream: SupervisedStream | None) -> None:
        """Refuse one more that runs than there may be."""
        if stream is not None and stream.active:
            return
        active = sum(other.active for other in self._streams.values())
        if active >= self._options.max_streams:
            message = f"{active} streams run already, the most of this server (FACE_SERVER_STREAMS__MAX_STREAMS)"
            raise Overloaded(message, retry_after_s=60.0, code="too_many_streams")

    def _stream(self, stream_id: str) -> SupervisedStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise NotFound(f"there is no stream {stream_id!r}")
        return stream

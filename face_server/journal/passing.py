"""A journal that passes everything on to another one: the base of those that change a little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from face_server.domain.events import DeadLetter, Delivery, Event, EventFilter, Lane, Picture
from face_server.domain.stream_ports import Journal
from face_server.domain.streams import StreamSpec


class PassingJournal:
    """``Journal`` that does what ``inner`` does."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """See ``Journal.append``."""
        return await self._inner.append(events, pictures, sinks)

    async def close(self) -> None:
        """See ``Journal.close``."""
        await self._inner.close()

    async def streams(self) -> list[StreamSpec]:
        """See ``Journal.streams``."""
        return await self._inner.streams()

    async def add_stream(self, spec: StreamSpec) -> None:
        """See ``Journal.add_stream``."""
        await self._inner.add_stream(spec)

    async def replace_stream(self, spec: StreamSpec) -> None:
        """See ``Journal.replace_stream``."""
        await self._inner.replace_stream(spec)

    async def remove_stream(self, stream_id: str) -> None:
        """See ``Journal.remove_stream``."""
        await self._inner.remove_stream(stream_id)

    async def events(self, *, after: int = 0, before: int | None = None, limit: int = 100, where: EventFilter | None = None) -> list[Event]:
        """See ``Journal.events``."""
        return await self._inner.events(after=after, before=before, limit=limit, where=where)

    async def event(self, event_id: str) -> Event:
        """See ``Journal.event``."""
        return await self._inner.event(event_id)

    async def picture(self, picture_id: str) -> bytes:
        """See ``Journal.picture``."""
        return await self._inner.picture(picture_id)

    async def name_stranger(self, stranger_id: str, *, name: str, collection: str = "", identity_id: str = "", into: str = "") -> int:
        """See ``Journal.name_stranger``."""
        return await self._inner.name_stranger(stranger_id, name=name, collection=collection, identity_id=identity_id, into=into)

    @property
    def revisit_s(self) -> float:
        """See ``Journal.revisit_s``."""
        return self._inner.revisit_s

    async def lanes(self, *, free: bool = False) -> list[Lane]:
        """See ``Journal.lanes``."""
        return await self._inner.lanes(free=free)

    async def claim(self, lane: Lane) -> bool:
        """See ``Journal.claim``."""
        return await self._inner.claim(lane)

    async def release(self, lane: Lane) -> bool:
        """See ``Journal.release``."""
        return await self._inner.release(lane)

    async def pending(self, lane: Lane, *, after: int = 0, limit: int = 16) -> list[Delivery]:
        """See ``Journal.pending``."""
        return await self._inner.pending(lane, after=after, limit=limit)

    async def delivered(self, delivery_id: int) -> None:
        """See ``Journal.delivered``."""
        await self._inner.delivered(delivery_id)

    async def failed(self, delivery_id: int, error: str) -> None:
        """See ``Journal.failed``."""
        await self._inner.failed(delivery_id, error)

    async def bury(self, delivery_id: int, error: str) -> None:
        """See ``Journal.bury``."""
        await self._inner.bury(delivery_id, error)

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """See ``Journal.dead_letters``."""
        return await self._inner.dead_letters(after=after, limit=limit)

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """See ``Journal.replay``."""
        return await self._inner.replay(letter_ids)

    async def discard(self, letter_ids: Sequence[int]) -> int:
        """See ``Journal.discard``."""
        return await self._inner.discard(letter_ids)

    async def prune(self) -> int:
        """See ``Journal.prune``."""
        return await self._inner.prune()

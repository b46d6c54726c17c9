"""Streams that several replicas share: each runs on exactly one of them, and all of them answer for it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace

from face_server.domain.ports import Clock
from face_server.domain.replicas import ReplicaNote, Standing
from face_server.domain.stream_ports import Ownership, StreamRunner
from face_server.domain.streams import StreamSpec, StreamState, StreamStatus
from face_server.errors import NotFound
from face_server.streams.peers import PeerViews, elsewhere
from face_server.streams.tenancy import Household, Tenancy, TenancyOptions


async def _nothing() -> None:
    """Nobody follows the registered streams."""


class OwnedStreams:
    """``StreamRunner`` that runs with ``inner`` what this replica owns, and knows of the rest. ``Fence`` for its journal.

    ``start`` says that some replica must run a stream, ``stop`` and ``forget`` that none must; the owner
    learns it from the registered streams, which each replica follows (``follow``: ``Streams.refresh``), within a
    second or two. ``restart`` is passed on to the owner. ``status`` of a stream that runs elsewhere is at most two seconds old;
    ``replica`` in it is the owner's name. Pictures of it are fetched with ``views``.

    With a ``SoleOwner`` everything is passed to ``inner`` as it is.
    """

    def __init__(
        self,
        inner: StreamRunner,
        ownership: Ownership,
        clock: Clock,
        options: TenancyOptions | None = None,
        *,
        views: PeerViews | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._inner = inner
        self._ownership = ownership
        self._clock = clock
        self._options = options or TenancyOptions()
        self._views = views
        self._specs: dict[str, StreamSpec] = {}
        self._since: dict[str, float] = {}
        self._looked_at: tuple[ReplicaNote, ...] = ()
        self._foreign: dict[str, tuple[ReplicaNote, StreamStatus]] = {}
        self._follow: Callable[[], Awaitable[None]] = _nothing
        house = Household(self._begin, self._leave, inner.restart, self._own_statuses, self._followed)
        self._tenancy = Tenancy(ownership, clock, self._options, house, chance)
        self._closed = False

    @property
    def away(self) -> str:
        """Why the other replicas cannot be seen; empty while they can."""
        return self._tenancy.away

    @property
    def others(self) -> tuple[ReplicaNote, ...]:
        """The other replicas, as they were a moment ago."""
        return self._tenancy.others

    def standing(self, stream_id: str) -> Standing:
        """See ``Fence.standing``."""
        return self._tenancy.standing(stream_id) if self._ownership.shared else Standing()

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """See ``Fence.superseded_at``."""
        return await self._ownership.superseded_at(stream_id, token)

    async def announce(self) -> None:
        """Have the other replicas read the registered streams anew."""
        await self._ownership.announce()

    async def run(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Keep what this replica owns, and ``follow`` what others change, until cancelled. Returns at once where there are no others."""
        self._follow = follow
        if self._ownership.shared:
            await self._tenancy.run()

    async def start(self, spec: StreamSpec) -> None:
        """See ``StreamRunner.start``. Returns before it is known who runs it."""
        if not self._ownership.shared:
            await self._inner.start(spec)
            return
        self._specs[spec.id] = spec
        self._since.setdefault(spec.id, self._clock.now())
        self._tenancy.want(spec.id)
        if self._tenancy.has(spec.id):
            await self._inner.start(spec)
        else:
            await self._tenancy.take_new(spec.id)

    async def stop(self, stream_id: str) -> None:
        """See ``StreamRunner.stop``. Where it runs elsewhere, its owner stops it."""
        await self._end(stream_id, self._inner.stop)

    async def forget(self, stream_id: str) -> None:
        """See ``StreamRunner.forget``. Where it runs elsewhere, its owner forgets it."""
        await self._end(stream_id, self._inner.forget)

    async def restart(self, stream_id: str) -> None:
        """See ``StreamRunner.restart``. Where it runs elsewhere, its owner is told."""
        if self._is_here(stream_id):
            await self._inner.restart(stream_id)
        elif stream_id in self._specs:
            await self._ownership.ask_restart(stream_id)
        else:
            raise NotFound(f"there is no stream {stream_id!r}")

    def status(self, stream_id: str) -> StreamStatus:
        """See ``StreamRunner.status``."""
        if not self._ownership.shared:
            return self._inner.status(stream_id)
        if self._tenancy.has(stream_id):
            return replace(self._inner.status(stream_id), replica=self._options.name)
        found = self._elsewhere(stream_id)
        if found is not None:
            return found[1]
        if stream_id in self._specs:
            reason = self.away or "no replica runs it yet"
            return StreamStatus(stream_id, StreamState.STARTING, self._since[stream_id], reason, "no_owner")
        return self._inner.status(stream_id)

    def statuses(self) -> list[StreamStatus]:
        """See ``StreamRunner.statuses``; those of all replicas."""
        known = {status.id for status in self._inner.statuses()} | self._specs.keys()
        return [self.status(stream_id) for stream_id in sorted(known)]

    async def snapshot(self, stream_id: str, *, annotated: bool = True) -> bytes:
        """See ``StreamRunner.snapshot``. Unavailable, with the owner's name, where its replica cannot be asked."""
        found = None if self._is_here(stream_id) else self._elsewhere(stream_id)
        if found is None:
            return await self._inner.snapshot(stream_id, annotated=annotated)
        return await self._views_of(found[0], stream_id).snapshot(found[0], stream_id, annotated=annotated)

    def preview(self, stream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See ``StreamRunner.preview``. Ends when the stream moves to another replica."""
        found = None if self._is_here(stream_id) else self._elsewhere(stream_id)
        if found is None:
            return self._inner.preview(stream_id)
        return self._foreign_preview(found[0], stream_id)

    async def close(self) -> None:
        """Stop every stream that runs here and let others have them. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._inner.close()
        await self._tenancy.close()

    @asynccontextmanager
    async def _foreign_preview(self, owner: ReplicaNote, stream_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._views_of(owner, stream_id).preview(owner, stream_id) as pictures:
            yield pictures

    async def _end(self, stream_id: str, end: Callable[[str], Awaitable[None]]) -> None:
        if not self._ownership.shared:
            await end(stream_id)
            return
        known = self._specs.pop(stream_id, None) is not None
        self._since.pop(stream_id, None)
        self._tenancy.want_not(stream_id)
        try:
            await self._tenancy.give_back(stream_id, lambda: end(stream_id))
        except NotFound:
            # It never ran here.
            if not known:
                raise

    async def _begin(self, stream_id: str) -> None:
        spec = self._specs.get(stream_id)
        if spec is None:
            raise NotFound(f"there is no stream {stream_id!r}")
        await self._inner.start(spec)

    async def _leave(self, stream_id: str) -> None:
        with suppress(NotFound):
            await self._inner.forget(stream_id)

    async def _followed(self) -> None:
        await self._follow()

    def _own_statuses(self) -> list[StreamStatus]:
        return [status for status in self._inner.statuses() if self._tenancy.has(status.id)]

    def _is_here(self, stream_id: str) -> bool:
        return not self._ownership.shared or self._tenancy.has(stream_id)

    def _elsewhere(self, stream_id: str) -> tuple[ReplicaNote, StreamStatus] | None:
        """Who else runs a stream, and how it is."""
        others = self._tenancy.others
        if others is not self._looked_at:
            self._looked_at = others
            self._foreign = {status.id: (note, status) for note in others for status in note.statuses}
        return self._foreign.get(stream_id)

    def _views_of(self, owner: ReplicaNote, stream_id: str) -> PeerViews:
        if self._views is None:
            raise elsewhere(owner, stream_id, "from which nothing can be fetched")
        return self._views

"""Registered streams where several replicas change them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from face_server.domain.ports import Clock
from face_server.domain.stream_ports import Journal, StreamRunner
from face_server.domain.streams import StreamSpec
from face_server.errors import FaceServerError
from face_server.streams.registry import SpecListener, StreamChecks, Streams, to_the_end

_log = logging.getLogger(__name__)


class SharedStreams(Streams):
    """``Streams`` of one of several replicas with one journal.

    Before each change what the others changed is read, after it they are told by ``announce``; ``refresh`` is what they do then.
    Lists and statuses here show their changes within a second or two. Of two changes of one stream in the same
    few milliseconds on two replicas the later one counts.
    """

    def __init__(
        self,
        journal: Journal,
        runner: StreamRunner,
        listener: SpecListener,
        clock: Clock,
        checks: StreamChecks,
        *,
        announce: Callable[[], Awaitable[None]],
        max_streams: int = 64,
    ) -> None:
        super().__init__(journal, runner, listener, clock, checks, max_streams=max_streams)
        self._announce = announce
        self._touched: set[str] = set()
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Take over what others have changed in the journal. What is being changed here meanwhile is left for the next time."""
        async with self._refreshing:
            self._touched = set(self._turns)
            stored = {spec.id: spec for spec in await self._journal.streams()}
            ours = self._touched
            changed = [one for one in {**self._specs, **stored} if one not in ours and self._specs.get(one) != stored.get(one)]
            if not changed:
                return
            kept = {one: self._specs[one] for one in ours if one in self._specs}
            # In the order of the journal; what it does not have yet comes last.
            found = {one: kept.get(one, spec) for one, spec in stored.items() if one in kept or one not in ours}
            self._specs = found | kept
        for stream_id in changed:
            await to_the_end(self._adopt(stream_id))

    async def create(self, spec: StreamSpec) -> StreamSpec:
        """See ``Streams.create``."""
        await self.refresh()
        stored = await super().create(spec)
        await self._tell_others()
        return stored

    async def change(self, stream_id: str, edit: Callable[[StreamSpec], StreamSpec]) -> StreamSpec:
        """See ``Streams.change``."""
        await self.refresh()
        stored = await super().change(stream_id, edit)
        await self._tell_others()
        return stored

    async def remove(self, stream_id: str) -> None:
        """See ``Streams.remove``."""
        await self.refresh()
        await super().remove(stream_id)
        await self._tell_others()

    async def restart(self, stream_id: str) -> None:
        """See ``Streams.restart``. The replica that runs it connects anew within a second or two."""
        await self.refresh()
        await super().restart(stream_id)

    async def _adopt(self, stream_id: str) -> None:
        """Run a stream as others have registered it."""
        async with self._turn(stream_id):
            spec = self._specs.get(stream_id)
            self._not_started.pop(stream_id, None)
            if spec is None:
                await self._forget(stream_id)
                return
            self._listener.put_spec(spec)
            if spec.enabled:
                await self._start_or_say_why(spec)
            else:
                await self._run(spec)

    async def _tell_others(self) -> None:
        try:
            await self._announce()
        except FaceServerError as error:
            _log.warning("other replicas learn of a changed stream a little later: %s", error.message)

    def _turn(self, stream_id: str) -> asyncio.Lock:
        self._touched.add(stream_id)
        return super()._turn(stream_id)

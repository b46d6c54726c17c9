"""From what happened to whoever wants to know: events go into the journal, and from there to the sinks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from face_server.domain.events import Event, Lane
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import Journal
from face_server.domain.streams import SinkSpec, StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import Overloaded, Unavailable
from face_server.streams.destinations import Destinations, OpenSink
from face_server.streams.lanes import CountDelivery, DeliveryOptions, LaneStatus, LaneTools, LaneWorker

T = TypeVar("T")

TellListeners = Callable[[Sequence[Event]], None]
"""Told every stored event, in the order of the cursors."""

_log = logging.getLogger(__name__)

_JOURNAL_PAUSE_S = 1.0
_STOPPING_S = 1.0


class EventBus:
    """Publishes events: stored first, then delivered at least once, in order a stream and sink.

    ``put_spec`` and ``drop_spec`` say which sinks a stream has now; deliveries to a sink that it has
    no longer become dead letters. While ``run`` runs, each lane with something to deliver has a task.
    A receiver that is away or hangs holds up its own lanes only; they start where they stopped, after
    restarts too.
    """

    def __init__(
        self,
        journal: Journal,
        open_sink: OpenSink,
        clock: Clock,
        options: DeliveryOptions | None = None,
        *,
        tell: TellListeners = lambda _: None,
        count: CountDelivery = lambda _kind, _outcome: None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._options = options = options or DeliveryOptions()
        self._tell = tell
        self._specs: dict[str, StreamSpec] = {}
        self._destinations = Destinations(
            open_sink, places=options.places, retry_places=options.retry_places, places_per_sink=options.places_per_sink
        )
        self._tools = LaneTools(journal, self._destinations, clock, options, self._find, self._learn, count, self._hurry)
        self._lanes: dict[Lane, LaneWorker] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()

    async def publish(self, spec: StreamSpec, look: Look) -> None:
        """Store the events of a look, with a delivery for each sink of the stream that wants them, and wake who delivers.

        Once this has returned they survive a crash. Raises Unavailable or Overloaded, and stores
        nothing, while the journal cannot be written. A cancelled call stores all the same.
        """
        if not look.events:
            return
        sinks = self._specs.get(spec.id, spec).sinks
        wanted = {event.id: list(dict.fromkeys(sink.key for sink in sinks if sink.wants(event.kind))) for event in look.events}
        write = asyncio.create_task(self._write(look, wanted), name=f"publish {spec.id}")
        self._writes.add(write)
        write.add_done_callback(self._written)
        await asyncio.shield(write)

    def set_specs(self, specs: Iterable[StreamSpec]) -> None:
        """These are all the streams."""
        self._specs = {spec.id: spec for spec in specs}
        self._respect(None)

    def put_spec(self, spec: StreamSpec) -> None:
        """A stream is new or has changed."""
        self._specs[spec.id] = spec
        self._respect(spec.id)

    def drop_spec(self, stream_id: str) -> None:
        """A stream is gone."""
        self._specs.pop(stream_id, None)
        self._respect(stream_id)

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """Queue dead letters again, at the end of their lanes. Returns how many; Conflict for those of removed streams."""
        count = await self._journal.replay(letter_ids)
        await self._resume()
        return count

    def lanes(self) -> list[LaneStatus]:
        """Every lane that is being delivered."""
        return [worker.status for worker in self._lanes.values()]

    async def run(self) -> None:
        """Deliver until cancelled or closed, beginning with what the journal still holds.

        Knows the streams that the journal holds, too.
        """
        self._running = asyncio.current_task()
        try:
            for spec in await self._persistently(self._journal.streams):
                self._specs.setdefault(spec.id, spec)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._revisit(), name="revisit lanes")
                self._tasks = tasks
                try:
                    await self._persistently(self._resume)
                    await self._tidy()
                finally:
                    # A group that is ending takes no more tasks.
                    self._tasks = None
        finally:
            self._lanes.clear()
            self._running = None

    async def close(self) -> None:
        """Stop delivering and close the sinks, within 2 s. Idempotent."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=_STOPPING_S / 2)
        running = self._running
        if running is not None:
            running.cancel()
            await asyncio.wait({running}, timeout=_STOPPING_S / 2)
        await self._destinations.close()

    async def _write(self, look: Look, sinks: Mapping[str, Sequence[str]]) -> None:
        """Append to the journal, tell listeners and wake lanes."""
        async with self._writing:
            stored = await self._journal.append(look.events, look.pictures, sinks)
            self._tell(stored)
        for event in stored:
            for key in sinks[event.id]:
                self._wake(Lane(event.stream_id, key))

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            # Whoever published may have been cancelled meanwhile; the error is theirs.
            write.exception()

    async def _tidy(self) -> None:
        """Close sinks that no stream uses any more, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._destinations.keep(sink for spec in self._specs.values() for sink in spec.sinks)

    async def _revisit(self) -> None:
        """Look again now and then: another process may have queued something, or left its lanes."""
        while True:
            await self._clock.sleep(self._journal.revisit_s)
            await self._persistently(self._resume)

    async def _resume(self) -> None:
        for lane in await self._journal.lanes(free=True):
            self._wake(lane)

    def _wake(self, lane: Lane) -> None:
        """Have a lane delivered; before ``run`` has begun that is left to it."""
        if self._tasks is None:
            return
        worker = self._lanes.get(lane)
        if worker is not None:
            worker.wanted = True
            return
        worker = self._lanes[lane] = LaneWorker(lane, self._tools)
        self._tasks.create_task(self._serve(worker), name=f"deliver {lane.stream_id} to {lane.sink_key}")

    async def _serve(self, worker: LaneWorker) -> None:
        while worker.wanted:
            worker.wanted = False
            try:
                await worker.drain()
            except Exception:  # noqa: BLE001 - a mistake in one lane must not end all others
                _log.exception("deliveries to %s stumbled", worker.lane.sink_key)
                worker.wanted = True
                await self._clock.sleep(self._options.last_pause_s)
        del self._lanes[worker.lane]
        self._changed.set()

    def _find(self, lane: Lane) -> SinkSpec | None:
        spec = self._specs.get(lane.stream_id)
        return next((sink for sink in spec.sinks if sink.key == lane.sink_key), None) if spec is not None else None

    async def _learn(self, lane: Lane) -> SinkSpec | None:
        """The sink of a lane by what the journal says: another replica may have added it a moment ago."""
        for spec in await self._journal.streams():
            if spec.id == lane.stream_id:
                self._specs[spec.id] = spec
        return self._find(lane)

    def _hurry(self, sink: SinkSpec) -> None:
        """A receiver is back: whatever waits for it may go."""
        for worker in self._lanes.values():
            if worker.lane.sink_key == sink.key:
                worker.hurry()

    def _respect(self, stream_id: str | None) -> None:
        """Sinks of a stream, or of any, have changed."""
        self._changed.set()
        for worker in self._lanes.values():
            if stream_id in (None, worker.lane.stream_id):
                worker.hurry()

    async def _persistently(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of a step of the journal, however long that cannot be read."""
        while True:
            try:
                return await step()
            except (Unavailable, Overloaded) as error:
                _log.warning("deliveries wait for the journal: %s", error.message)
                await self._clock.sleep(_JOURNAL_PAUSE_S)

"""A journal that may be away: events wait on the local disk meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

from face_server.domain.events import Event, Picture
from face_server.domain.ports import Clock
from face_server.domain.replicas import Standing
from face_server.domain.stream_ports import Fence, Journal
from face_server.errors import ConfigurationError, FaceServerError, Overloaded, Unavailable
from face_server.journal.passing import PassingJournal
from face_server.journal.records import read_event, write_event
from face_server.journal.sealing import Sealer
from face_server.journal.spool_file import SpoolBounds, SpoolEntry, SpoolFile, spool_paths

_FIRST_PAUSE_S = 0.25
_LAST_PAUSE_S = 2.0
_MAX_SPOOLS = 256

_log = logging.getLogger(__name__)

TellDrained = Callable[[Sequence[Event]], None]
"""Told the events that the journal has at last, with their cursors."""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What waits on this disk. ``lost`` events gave way to newer ones or were refused since the start; ``reason`` is why any wait."""

    events: int
    bytes: int
    lost: int
    reason: str


class Unfenced:
    """``Fence`` where there is one replica: everything is its own."""

    def standing(self, stream_id: str) -> Standing:
        """Sure."""
        del stream_id
        return Standing()

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """Never."""
        del stream_id, token
        return None


class SpoolingJournal(PassingJournal):
    """``Journal`` that takes events also while ``inner`` is away (Unavailable or Overloaded). All else is passed through.

    Events then go to a bounded queue on disk, sealed, in the order in which they came; ``append``
    returns when they are there, and gives them without a cursor (0). As soon as ``inner`` is back they follow
    into it in that order, each once: by its id, whatever was under way when the journal or this process
    died. New ones queue behind them until then. A spool of an earlier process of the same folder is taken over.

    *Live listeners* follow cursors, and an event that waits has none yet: they hear of it when it
    has got into the journal; ``drained`` is told then. Nobody hears anything twice or out of order for it.

    *Fencing.* With several replicas (``fence``) events are sealed with the token of the claim under which
    they were seen. Those of a stream that somebody else may own by now go through the spool even while
    the journal answers, and it is asked first when the next owner began. What was decided before that
    is taken as usual. What was decided after it, while this replica had not noticed yet, is
    stored for the record but delivered to nobody: the new owner watches the same camera and alerts. What is decided after it
    was noticed, such as that everybody has left because this replica stops watching, is not true, and dropped.

    Beyond the bounds the oldest events are lost, which is logged and counted. When the disk is full as well
    ``append`` raises Unavailable, and events wait in memory as they do without a spool.
    """

    def __init__(
        self,
        inner: Journal,
        spools: Sequence[SpoolFile],
        clock: Clock,
        *,
        fence: Fence | None = None,
        drained: TellDrained = lambda _: None,
    ) -> None:
        super().__init__(inner)
        self._file, self._orphans = spools[0], list(spools[1:])
        self._clock = clock
        self._fence = fence or Unfenced()
        self._drained = drained
        self._order = asyncio.Lock()
        self._draining: asyncio.Task[None] | None = None
        self._refused = 0
        self._reason = ""
        self._closed = False

    @classmethod
    async def open(
        cls,
        inner: Journal,
        folder: Path,
        clock: Clock,
        sealer: Sealer,
        bounds: SpoolBounds | None = None,
        *,
        fence: Fence | None = None,
        drained: TellDrained = lambda _: None,
    ) -> SpoolingJournal:
        """Take the first spool of ``folder`` that no other process uses, and begin to drain what earlier ones left.

        Raises ConfigurationError for files of another kind or key, Unavailable when the folder cannot be used.
        """
        spools = await asyncio.to_thread(_open_spools, folder, sealer, bounds or SpoolBounds())
        journal = cls(inner, spools, clock, fence=fence, drained=drained)
        waiting = sum(spool.totals.events for spool in spools)
        if waiting:
            _log.info("%d event(s) wait in the spool from before the start", waiting)
        journal._drain_soon()
        return journal

    @property
    def status(self) -> SpoolStatus:
        """What waits now."""
        spools = (self._file, *self._orphans)
        return SpoolStatus(
            sum(spool.totals.events for spool in spools),
            sum(spool.totals.bytes for spool in spools),
            self._refused + sum(spool.dropped for spool in spools),
            self._reason,
        )

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """See ``Journal.append``. Events that wait on this disk come back with cursor 0."""
        async with self._order:
            standings = {event.stream_id: self._fence.standing(event.stream_id) for event in events}
            events = self._without_late(events, standings)
            if not self._file.totals.entries and all(standing.sure for standing in standings.values()):
                try:
                    stored = await self._inner.append(events, pictures, sinks)
                except (Unavailable, Overloaded) as error:
                    self._note_away(error)
                else:
                    self._reason = ""
                    return stored
            if events:
                body = _pack(events, pictures, sinks, standings)
                if len(body) > self._file.bounds.max_bytes:
                    body = _pack(events, (), sinks, standings)
                await self._file.put(body, events=len(events), now=self._clock.now())
                self._drain_soon()
            return list(events)

    def _without_late(self, events: Sequence[Event], standings: Mapping[str, Standing]) -> Sequence[Event]:
        kept = [event for event in events if not _is_late(event, standings[event.stream_id].lost_at)]
        if len(kept) < len(events):
            _log.info("%d event(s) of a stream that runs elsewhere now were dropped", len(events) - len(kept))
        return kept

    def _note_away(self, error: FaceServerError) -> None:
        if not self._reason:
            _log.warning("events wait on disk: %s", error.message)
        self._reason = error.message

    def _drain_soon(self) -> None:
        waits = self._orphans or self._file.totals.entries
        if waits and not self._closed and (self._draining is None or self._draining.done()):
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain the spool")

    async def _drain(self) -> None:
        """Empty the spools of earlier processes, then the own one."""
        while self._orphans:
            await self._drain_file(self._orphans[0])
            orphan = self._orphans.pop(0)
            await asyncio.to_thread(orphan.discard)
        while self._file.totals.entries:
            await self._drain_file(self._file)

    async def _drain_file(self, file: SpoolFile) -> None:
        pause_s, moved = _FIRST_PAUSE_S, 0
        while True:
            try:
                entry = await file.first(self._clock.now())
                if entry is None:
                    break
                await self._move(entry)
                await file.remove(entry.key)
            except (Unavailable, Overloaded) as error:
                self._note_away(error)
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                continue
            pause_s, moved = _FIRST_PAUSE_S, moved + entry.events
        if moved:
            _log.info("%d event(s) that waited on disk are in the journal", moved)
        self._reason = ""

    async def _move(self, entry: SpoolEntry) -> None:
        """Put one entry into the journal. One that it will never take is given up, with a sentence in the log."""
        try:
            events, pictures, sinks, standings = _unpack(entry)
            wanted = {event.id: sinks.get(event.id, ()) for event in events if not await self._is_superseded(event, standings)}
            stored = await self._inner.append(events, pictures, wanted)
        except (Unavailable, Overloaded):
            raise
        except (FaceServerError, ValueError) as error:
            self._refused += entry.events
            _log.error("%d event(s) that waited on disk were lost: %s", entry.events, error)
            return
        self._drained(stored)

    async def _is_superseded(self, event: Event, standings: Mapping[str, Standing]) -> bool:
        """Whether another replica watched the stream already when the event was decided."""
        standing = standings[event.stream_id]
        if standing.sure or not standing.token:
            return False
        return _is_late(event, await self._fence.superseded_at(event.stream_id, standing.token))

    async def close(self) -> None:
        """Flush and release, the inner journal too; what waits still waits at the next start. Idempotent."""
        self._closed = True
        if self._draining is not None:
            self._draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._draining
        for spool in (self._file, *self._orphans):
            await asyncio.to_thread(spool.close)
        await self._inner.close()


def _open_spools(folder: Path, sealer: Sealer, bounds: SpoolBounds) -> list[SpoolFile]:
    """The spool of this process, and after it those that ended processes have left."""
    spools: list[SpoolFile] = []
    try:
        for path in islice(spool_paths(folder), _MAX_SPOOLS):
            if (not spools or path.exists()) and (opened := SpoolFile.open(path, sealer, bounds)) is not None:
                spools.append(opened)
    except BaseException:
        for spool in spools:
            spool.close()
        raise
    if not spools:
        raise ConfigurationError(f"{_MAX_SPOOLS} processes spool to {folder} already")
    return spools


def _is_late(event: Event, taken_at: float | None) -> bool:
    return taken_at is not None and event.at > taken_at


def _pack(
    events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]], standings: Mapping[str, Standing]
) -> bytes:
    body = {
        "events": [write_event(event) for event in events],
        "pictures": [[picture.id, picture.jpeg] for picture in pictures],
        "sinks": {event.id: list(sinks.get(event.id, ())) for event in events},
        "standings": {stream_id: [standing.token, standing.sure] for stream_id, standing in standings.items()},
    }
    packed: bytes = msgpack.packb(body)
    return packed


def _unpack(entry: SpoolEntry) -> tuple[list[Event], list[Picture], dict[str, list[str]], dict[str, Standing]]:
    """The parts of an entry. ValueError if it is damaged."""
    if entry.body is None:
        raise ValueError("they are damaged")
    try:
        body = msgpack.unpackb(entry.body)
        events = [read_event(record, 0) for record in body["events"]]
    except (KeyError, TypeError, ValueError, msgpack.UnpackException, Unavailable) as error:
        raise ValueError("they are damaged") from error
    pictures = [Picture(name, jpeg) for name, jpeg in body["pictures"]]
    standings = {stream_id: Standing(token, sure) for stream_id, (token, sure) in body["standings"].items()}
    return events, pictures, body["sinks"], standings

"""The sinks in use, each shared by all streams that deliver there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace

from face_server.domain.stream_ports import EventSink
from face_server.domain.streams import SinkSpec

OpenSink = Callable[[SinkSpec], EventSink]
"""A fresh sink for a spec; raises InvalidInput for one that cannot work."""

_log = logging.getLogger(__name__)

_CLOSING_S = 1.0


@dataclass(slots=True, eq=False)
class Destination:
    """An open sink. ``doubtful`` says that it did not take the last event that it was given."""

    sink: EventSink
    slots: asyncio.Semaphore
    doubtful: bool = False
    users: int = 0
    _probe: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    def gate(self) -> asyncio.Semaphore:
        """Who may deliver now: a few at a time, one at a time while it is doubtful."""
        return self._probe if self.doubtful else self.slots


class Destinations:
    """Opens sinks when they are needed, bounds what goes on at once, and closes those that nobody uses.

    Receivers that answer share ``places``; those that did not answer last share ``retry_places``
    and try one event at a time. So receivers that hang, however many, take nothing from the others.
    """

    def __init__(self, open_sink: OpenSink, *, places: int, retry_places: int, places_per_sink: int) -> None:
        self._open_sink = open_sink
        self._places = asyncio.Semaphore(places)
        self._retry_places = asyncio.Semaphore(retry_places)
        self._places_per_sink = places_per_sink
        self._open: dict[SinkSpec, Destination] = {}

    @contextlib.asynccontextmanager
    async def use(self, spec: SinkSpec) -> AsyncIterator[Destination]:
        """The destination of ``spec``, in one's turn. Raises InvalidInput where the spec cannot work."""
        destination = self._destination(spec)
        destination.users += 1
        try:
            async with self._turn(destination):
                yield destination
        finally:
            destination.users -= 1

    async def keep(self, specs: Iterable[SinkSpec]) -> None:
        """Close the sinks that are for none of ``specs``, unless something is being delivered there."""
        kept = {_place(spec) for spec in specs}
        unused = [place for place, destination in self._open.items() if place not in kept and not destination.users]
        await asyncio.gather(*(_close(self._open.pop(place)) for place in unused))

    async def close(self) -> None:
        """Close every sink, within a second. Idempotent."""
        closing = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*map(_close, closing))

    def _destination(self, spec: SinkSpec) -> Destination:
        place = _place(spec)
        if place not in self._open:
            self._open[place] = Destination(self._open_sink(place), asyncio.Semaphore(self._places_per_sink))
        return self._open[place]

    @contextlib.asynccontextmanager
    async def _turn(self, destination: Destination) -> AsyncIterator[None]:
        while True:
            gate = destination.gate()
            async with gate:
                # Doubts may have come or gone during the wait.
                if gate is not destination.gate():
                    continue
                async with self._retry_places if destination.doubtful else self._places:
                    yield
                    return


def _place(spec: SinkSpec) -> SinkSpec:
    """What makes two sinks one: all but the kinds of events that go there."""
    return replace(spec, kinds=())


async def _close(destination: Destination) -> None:
    try:
        async with asyncio.timeout(_CLOSING_S):
            await destination.sink.close()
    except TimeoutError:
        _log.warning("a sink did not close within %g s", _CLOSING_S)
    except Exception:  # noqa: BLE001 - the libraries behind sinks fail in ways of their own, and the others must be closed too
        _log.exception("a sink failed to close")

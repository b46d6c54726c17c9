"""Events as they happen, for whoever listens: SSE and WebSockets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile

from face_server.domain.events import Event, EventFilter
from face_server.domain.stream_ports import Journal
from face_server.errors import Overloaded

_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """``recent`` events are kept in memory for all listeners together; ``page`` are read from the journal at a time."""

    max_listeners: int = 256
    recent: int = 512
    page: int = 100


class LiveEvents:
    """Lets listeners follow the journal, each from its own cursor, without gaps and without repetitions.

    A listener is a cursor and nothing more: it takes what came after it from the newest events in
    memory, or, having fallen behind these, from the journal. So one that is slow costs no memory,
    holds nobody up, and misses only what the journal has pruned meanwhile. Whoever appends to the
    journal must ``tell`` all of it, in the order of the cursors.
    """

    def __init__(self, journal: Journal, options: LiveOptions = LiveOptions()) -> None:
        self._journal = journal
        self._options = options
        self._recent: deque[Event] = deque(maxlen=options.recent)
        self._first: int | None = None
        self._newest = 0
        self._wakes: set[asyncio.Event] = set()
        self._closed = False

    def tell(self, events: Sequence[Event]) -> None:
        """Pass on events that the journal has stored. Those that it knew already are left out."""
        for event in events:
            if event.cursor <= self._newest:
                continue
            if self._first is None or len(self._recent) == self._recent.maxlen:
                self._first = self._recent[0].cursor if self._recent else event.cursor - 1
            self._recent.append(event)
            self._newest = event.cursor
        self._wake()

    @asynccontextmanager
    async def subscribe(self, *, after: int | None = None, where: EventFilter | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """Events with cursor > ``after`` that pass ``where``, oldest first, then each as it happens.

        Without ``after`` only those that happen from now on, and so with one that no event has reached:
        it comes from another journal. The iterator ends with the service. Raises Overloaded beyond the
        limit of listeners.
        """
        if len(self._wakes) >= self._options.max_listeners:
            raise Overloaded(f"{self._options.max_listeners} listeners follow the events already, try again later", retry_after_s=5.0)
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            end = await self._end()
            yield _Listener(self, wake, end if after is None else min(after, end), where or EventFilter())
        finally:
            self._wakes.discard(wake)

    def close(self) -> None:
        """End every subscription. Idempotent."""
        self._closed = True
        self._wake()

    @property
    def closed(self) -> bool:
        """Whether nothing comes any more."""
        return self._closed

    async def read(self, after: int, where: EventFilter) -> tuple[list[Event], int]:
        """Events after the cursor that pass, and the cursor to go on from."""
        if self._first is not None and after >= self._first:
            passed = takewhile(lambda event: event.cursor > after, reversed(self._recent))
            return [event for event in reversed(list(passed)) if where.admits(event)], max(after, self._newest)
        # Read before the journal is: all up to here is stored, so an incomplete page has all of it.
        newest = self._newest
        page = await self._journal.events(after=after, limit=self._options.page, where=where)
        if len(page) == self._options.page:
            return page, page[-1].cursor
        return page, max(after, newest, page[-1].cursor if page else 0)

    async def _end(self) -> int:
        """The cursor of the newest event."""
        stored = await self._journal.events(before=_NEWEST, limit=1)
        return max(self._newest, stored[0].cursor if stored else 0)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()


class _Listener:
    """Follows the journal. Cancelling a wait for the next event loses none."""

    def __init__(self, live: LiveEvents, wake: asyncio.Event, cursor: int, where: EventFilter) -> None:
        self._live = live
        self._wake = wake
        self._cursor = cursor
        self._where = where
        self._ready: deque[Event] = deque()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._live.closed:
                raise StopAsyncIteration
            self._wake.clear()
            before = self._cursor
            events, self._cursor = await self._live.read(before, self._where)
            self._ready.extend(events)
            if not events and self._cursor == before:
                await self._wake.wait()
        return self._ready.popleft()

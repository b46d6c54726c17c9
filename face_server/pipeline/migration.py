"""Moving everything a service keeps from one store to another; running it again goes on where it stopped."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from face_server.domain.events import DeadLetter, Delivery, Event, Lane, Picture
from face_server.domain.ports import Clock, Gallery
from face_server.domain.stream_ports import Journal
from face_server.errors import NotFound
from face_server.journal.key_ring import StoredKeyRing
from face_server.journal.options import JournalOptions
from face_server.journal.references import pictures_of
from face_server.pipeline.transfer import Transfer
from face_server.workers import Workers

_PAGE = 500
_EVENTS_AT_ONCE = 50
_PICTURES_AT_ONCE = 8

UNBOUNDED = JournalOptions(
    max_streams=10**9,
    max_events=10**12,
    retention_days=0,
    max_picture_bytes=10**15,
    max_pending_per_lane=10**9,
    max_dead_letters=10**9,
)
"""Of a journal that is moved nothing is erased; the server that uses it keeps its own bounds again."""

Advance = Callable[[str, int, int | None], None]
"""Is told what was moved or compared (``"templates of 'staff'"``), how many more of it, and of how many where that is known."""


def silent(what: str, more: int, total: int | None) -> None:
    """Tell nobody."""
    del what, more, total


@dataclass(frozen=True, slots=True)
class Side:
    """What one store keeps. ``name`` is for people; a source may lack a journal or keys."""

    name: str
    gallery: Gallery
    journal: Journal | None
    keys: StoredKeyRing | None
    damage: Callable[[], Sequence[str]]


class StandingClock:
    """A clock that can be set, so that what is stored keeps the time at which it happened; unset, it goes like another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: float | None = None

    def now(self) -> float:
        """The time that was set, or the present."""
        return self._clock.now() if self.at is None else self.at

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._clock.sleep(seconds)


async def contents(side: Side) -> list[str]:
    """What a store holds that somebody would miss, for people. A collection with nobody in it is nothing."""
    held = [f"the collection {one.name!r} with {one.identities} people" for one in await side.gallery.collections() if one.identities]
    if side.journal is not None:
        held += [f"{count} streams" for count in [len(await side.journal.streams())] if count]
        held += ["events"] if await side.journal.events(limit=1) else []
    if side.keys is not None:
        held += [f"{count} API keys" for count in [len(await side.keys.stored())] if count]
    return held


async def drop_empty_collections(side: Side) -> None:
    """Erase collections with nobody in them, such as the first one that a server makes when it starts."""
    for one in await side.gallery.collections():
        if not one.identities:
            await side.gallery.drop_collection(one.name)


class Migration:
    """Copies a source into a target that has nothing else.

    Everything is found again by its id, and what the target has is left as it is. ``clock`` is the one that the
    target's journal goes by. Of a delivery that waits, place and order are kept, its attempts begin anew; a dead letter
    keeps its reason and the time of its death.
    """

    def __init__(self, source: Side, target: Side, workers: Workers, clock: StandingClock, advance: Advance = silent) -> None:
        self._source = source
        self._target = target
        self._workers = workers
        self._clock = clock
        self._advance = advance

    async def run(self) -> None:
        """Copy everything that the target lacks.

        Raises what the stores raise: Unavailable for one that is away, full or damaged, ModelMismatch and Conflict for
        something else under the same name.
        """
        await self._copy_keys()
        transfer = Transfer(self._target.gallery, self._workers)
        for collection in await self._source.gallery.collections():
            what, total = f"templates of {collection.name!r}", collection.templates
            self._advance(what, 0, total)
            await transfer.copy_collection(self._source.gallery, collection.name, partial(self._counted, what, total))
        if self._source.journal is not None and self._target.journal is not None:
            await self._copy_streams(self._source.journal, self._target.journal)
            await self._copy_events(self._source.journal, self._target.journal)

    def _counted(self, what: str, total: int, more: int) -> None:
        self._advance(what, more, total)

    async def _copy_keys(self) -> None:
        if self._source.keys is None or self._target.keys is None:
            return
        stored = await self._source.keys.stored()
        for one in stored:
            await self._target.keys.adopt(one)
            self._advance("API keys", 1, len(stored))

    async def _copy_streams(self, source: Journal, target: Journal) -> None:
        specs = await source.streams()
        known = {spec.id for spec in await target.streams()}
        for spec in specs:
            if spec.id not in known:
                await target.add_stream(spec)
            self._advance("streams", 1, len(specs))

    async def _copy_events(self, source: Journal, target: Journal) -> None:
        """Events with their pictures and deliveries, in order; those that were given up are given up again afterwards."""
        letters = [one async for one in dead_letters(source)]
        receivers: defaultdict[str, list[str]] = defaultdict(list)
        async for event_id, lane in waiting(source):
            receivers[event_id].append(lane.sink_key)
        for letter in letters:
            receivers[letter.event.id].append(letter.lane.sink_key)
        there = 0
        async for page in events(source):
            stored = await target.events(after=there, limit=len(page)) if there >= 0 else []
            # Beyond the last event of the target nothing needs to be looked for any more.
            there = stored[-1].cursor if len(stored) == len(page) else -1
            known = {event.id for event in stored}
            lacking = [event for event in page if event.id not in known]
            if lacking:
                pictures = await pictures_in(source, lacking)
                moved = [replace(event, cursor=0) for event in lacking]
                await target.append(moved, pictures, {event.id: receivers.get(event.id, ()) for event in lacking})
            self._advance("events", len(page), None)
        await self._bury(target, letters)

    async def _bury(self, target: Journal, letters: Sequence[DeadLetter]) -> None:
        buried = {(one.lane, one.event.id) async for one in dead_letters(target)}
        missing = [one for one in letters if (one.lane, one.event.id) not in buried]
        numbers: dict[tuple[Lane, str], int] = {}
        for lane in {one.lane for one in missing}:
            numbers |= {(lane, one.event.id): one.id async for one in _deliveries(target, lane)}
        try:
            for letter in missing:
                number = numbers.get((letter.lane, letter.event.id))
                self._clock.at = letter.died_at
                if number is not None:
                    await target.bury(number, letter.error)
                self._advance("dead letters", 1, len(missing))
        finally:
            self._clock.at = None


async def events(journal: Journal, *, limit: int = _EVENTS_AT_ONCE) -> AsyncIterator[list[Event]]:
    """All events in pages, in order of their cursors."""
    after = 0
    while page := await journal.events(after=after, limit=limit):
        yield page
        after = page[-1].cursor


async def waiting(journal: Journal) -> AsyncIterator[tuple[str, Lane]]:
    """The id of the event and the lane of each delivery that waits, lane by lane, in order."""
    for lane in await journal.lanes():
        async for delivery in _deliveries(journal, lane):
            yield delivery.event.id, lane


async def _deliveries(journal: Journal, lane: Lane) -> AsyncIterator[Delivery]:
    after = 0
    while page := await journal.pending(lane, after=after, limit=_PAGE):
        for delivery in page:
            yield delivery
        after = page[-1].id


async def dead_letters(journal: Journal) -> AsyncIterator[DeadLetter]:
    """All dead letters, by id."""
    after = 0
    while page := await journal.dead_letters(after=after, limit=_PAGE):
        for letter in page:
            yield letter
        after = page[-1].id


async def pictures_in(journal: Journal, some: Iterable[Event]) -> list[Picture]:
    """The pictures of events; those that were erased before are left out."""
    wanted = sorted({one for event in some for one in pictures_of(event)})
    slots = asyncio.Semaphore(_PICTURES_AT_ONCE)

    async def read(picture_id: str) -> Picture | None:
        async with slots:
            try:
                return Picture(picture_id, await journal.picture(picture_id))
            except NotFound:
                return None

    return [one for one in await asyncio.gather(*map(read, wanted)) if one is not None]

"""Listeners of events, over the real journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from face_server.clock import FakeClock
from face_server.domain.events import Event, EventFilter, EventKind
from face_server.errors import Overloaded
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.sinks.live import LiveEvents, LiveOptions
from tests.sinks.receivers import event

LEFT = EventFilter(kinds=(EventKind.PERSON_LEFT,))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """An empty journal."""
    opened = await SqliteJournal.open(tmp_path / "journal.sqlite", FakeClock(), Sealer.from_key(bytes(32)))
    yield opened
    await opened.close()


@pytest.fixture
def live(journal: SqliteJournal) -> LiveEvents:
    """Keeps four events in memory and reads three at a time, so that every border is crossed."""
    return LiveEvents(journal, LiveOptions(max_listeners=3, recent=4, page=3))


async def happen(journal: SqliteJournal, live: LiveEvents | None, *numbers: int) -> None:
    """Events of alternating kinds, stored, and told to ``live``."""
    for number in numbers:
        kind = EventKind.PERSON_LEFT if number % 2 == 0 else EventKind.PERSON_SEEN
        stored = await journal.append([event(number, kind, cursor=0)], [], {})
        if live is not None:
            live.tell(stored)


async def take(events: AsyncIterator[Event], count: int) -> list[int]:
    """The numbers of the next events."""
    async with asyncio.timeout(5):
        return [int((await anext(events)).id[5:]) for _ in range(count)]


async def none_comes(events: AsyncIterator[Event]) -> bool:
    """Whether nothing more comes."""
    try:
        async with asyncio.timeout(0.05):
            await anext(events)
    except TimeoutError:
        return True
    return False


async def test_from_now_on(journal: SqliteJournal, live: LiveEvents) -> None:
    """Without a cursor a listener hears what happens after it came, and nothing older."""
    await happen(journal, None, 1, 2)
    async with live.subscribe() as events:
        assert await none_comes(events)
        await happen(journal, live, 3, 4)
        assert await take(events, 2) == [3, 4]
        assert await none_comes(events)


async def test_from_a_cursor(journal: SqliteJournal, live: LiveEvents) -> None:
    """With one, everything after it comes first, without a gap or a repetition where the past meets the present."""
    await happen(journal, None, *range(1, 9))
    await happen(journal, live, 9, 10)
    async with live.subscribe(after=2) as events:
        assert await take(events, 8) == list(range(3, 11))
        await happen(journal, live, 11)
        assert await take(events, 1) == [11]
        assert await none_comes(events)


async def test_from_a_cursor_of_another_journal(journal: SqliteJournal, live: LiveEvents) -> None:
    """One that no event has reached means from now on, not silence until one does."""
    await happen(journal, None, 1, 2)
    async with live.subscribe(after=1_000_000) as events:
        assert await none_comes(events)
        await happen(journal, live, 3)
        assert await take(events, 1) == [3]


async def test_one_that_is_slow(journal: SqliteJournal, live: LiveEvents) -> None:
    """Who reads late misses nothing, although memory holds four events only."""
    async with live.subscribe() as events:
        await happen(journal, live, *range(1, 41))
        assert await take(events, 20) == list(range(1, 21))
        await happen(journal, live, *range(41, 61))
        assert await take(events, 40) == list(range(21, 61))
        assert await none_comes(events)


async def test_a_filter(journal: SqliteJournal, live: LiveEvents) -> None:
    """Only what passes is heard, from the past, from memory, and where long stretches hold nothing that passes."""
    await happen(journal, None, *range(1, 10))
    async with live.subscribe(after=0, where=LEFT) as events:
        assert await take(events, 4) == [2, 4, 6, 8]
        await happen(journal, live, 11, 13, 15, 17, 19, 21, 22)
        assert await take(events, 1) == [22]
        assert await none_comes(events)


async def test_a_cancelled_wait_loses_nothing(journal: SqliteJournal, live: LiveEvents) -> None:
    """A listener may give up waiting, to send a heartbeat, and go on."""
    async with live.subscribe() as events:
        for number in range(1, 6):
            assert await none_comes(events)
            await happen(journal, live, number)
            assert await take(events, 1) == [number]


async def test_too_many(live: LiveEvents) -> None:
    """Listeners are bounded; who leaves makes room."""
    async with live.subscribe(), live.subscribe():
        async with live.subscribe():
            with pytest.raises(Overloaded, match="3 listeners"):
                async with live.subscribe():
                    pass
        async with live.subscribe():
            pass


async def test_closing(journal: SqliteJournal, live: LiveEvents) -> None:
    """The service's end is the listeners' end, even while they wait."""
    async with live.subscribe() as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        live.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_events_that_were_known(journal: SqliteJournal, live: LiveEvents) -> None:
    """An event that is published twice is heard once."""
    async with live.subscribe() as events:
        await happen(journal, live, 1, 2, 1)
        assert await take(events, 2) == [1, 2]
        assert await none_comes(events)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(1, 7), st.just("take")), max_size=20), after=st.integers(0, 6), filtered=st.booleans())
async def test_any_history(tmp_path_factory: pytest.TempPathFactory, steps: list[object], after: int, filtered: bool) -> None:
    """However events and reads alternate, a listener hears each event after its cursor that passes, once, in order."""
    folder = tmp_path_factory.mktemp("journal")
    journal = await SqliteJournal.open(folder / "journal.sqlite", FakeClock(), Sealer.from_key(bytes(32)))
    live = LiveEvents(journal, LiveOptions(recent=4, page=3))
    await happen(journal, None, 1, 2, 3)
    number, heard, first = 3, [], min(after, 3) + 1
    try:
        async with live.subscribe(after=after, where=LEFT if filtered else None) as events:
            expected: list[int] = []
            for step in steps:
                expected = [one for one in range(first, number + 1) if not filtered or one % 2 == 0]
                if step == "take":
                    if len(heard) < len(expected):
                        heard += await take(events, 1)
                else:
                    assert isinstance(step, int)
                    await happen(journal, live, *range(number + 1, number + step + 1))
                    number += step
            expected = [one for one in range(first, number + 1) if not filtered or one % 2 == 0]
            heard += await take(events, len(expected) - len(heard))
            assert heard == expected
            assert await none_comes(events)
    finally:
        await journal.close()

"""Events that wait for the journal: in order, bounded, and a poisonous one holds up nobody."""

from __future__ import annotations

import asyncio
import logging

import pytest

from face_server.clock import FakeClock
from face_server.domain.events import Event, EventKind, Picture
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import Conflict, Overloaded, Unavailable
from face_server.streams.outgoing import Outgoing, OutgoingOptions
from face_server.streams.patience import Leftovers

SPEC = StreamSpec("door", "rtsp://cam")


class Shelf:
    """Takes events while it is well."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.looks: list[Look] = []

    async def put(self, _spec: StreamSpec, look: Look) -> None:
        """Store, or fail."""
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.looks.append(look)

    @property
    def ids(self) -> list[str]:
        """What was stored."""
        return [event.id for look in self.looks for event in look.events]


def happened(event_id: str, size: int = 0) -> Look:
    """One event, with a picture of so many bytes."""
    event = Event(event_id, EventKind.PERSON_SEEN, "door", 1.0, 1.0, 1.0, picture=f"p{event_id}" if size else "")
    return Look(events=(event,), pictures=(Picture(f"p{event_id}", bytes(size)),) if size else ())


async def pass_time(clock: FakeClock, seconds: float) -> None:
    """Let time pass with room for everybody."""
    for _ in range(round(seconds / 0.1)):
        await clock.advance(0.1)
        for _ in range(8):
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [Unavailable("away"), Overloaded("full")])
async def test_events_wait_and_keep_their_order(error: Exception) -> None:
    """What could not be stored is tried again; then everything is there once."""
    clock, shelf = FakeClock(), Shelf()
    outgoing = Outgoing("door", shelf.put, clock, OutgoingOptions())
    shelf.error = error
    for number in range(5):
        outgoing.put(SPEC, happened(str(number)))
    await pass_time(clock, 60)
    assert (outgoing.waiting, shelf.ids) == (5, [])
    assert error.args[0] in outgoing.trouble
    shelf.error = None
    outgoing.put(SPEC, happened("5"))
    await pass_time(clock, 6)
    assert shelf.ids == list("012345")
    assert (outgoing.waiting, outgoing.trouble) == (0, "")


async def test_beyond_the_bytes_events_go_without_pictures() -> None:
    """Memory is bounded; the alert still arrives."""
    clock, shelf = FakeClock(), Shelf()
    outgoing = Outgoing("door", shelf.put, clock, OutgoingOptions(max_picture_bytes=1000))
    shelf.error = Unavailable("away")
    for number in range(4):
        outgoing.put(SPEC, happened(str(number), size=400))
    shelf.error = None
    await pass_time(clock, 6)
    assert shelf.ids == list("0123")
    assert [len(look.pictures) for look in shelf.looks] == [1, 1, 0, 0]
    assert [event.picture for look in shelf.looks for event in look.events] == ["p0", "p1", "", ""]
    outgoing.put(SPEC, happened("4", size=400))
    await pass_time(clock, 1)
    assert len(shelf.looks[-1].pictures) == 1


async def test_beyond_the_number_the_oldest_are_lost_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The one that is on its way stays, the ones after it go."""
    clock, shelf = FakeClock(), Shelf()
    outgoing = Outgoing("door", shelf.put, clock, OutgoingOptions(max_looks=3))
    shelf.error = Unavailable("away")
    with caplog.at_level(logging.ERROR):
        for number in range(5):
            outgoing.put(SPEC, happened(str(number)))
    assert sum("were lost" in record.message for record in caplog.records) == 2
    shelf.error = None
    await pass_time(clock, 6)
    assert shelf.ids == ["0", "3", "4"]


@pytest.mark.parametrize("error", [Conflict("never"), ZeroDivisionError("a bug")])
async def test_an_event_that_nobody_can_store_holds_up_nobody(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and left out."""
    clock, shelf = FakeClock(), Shelf()
    outgoing = Outgoing("door", shelf.put, clock, OutgoingOptions())
    shelf.error = error
    outgoing.put(SPEC, happened("poison"))
    await pass_time(clock, 1)
    shelf.error = None
    outgoing.put(SPEC, happened("next"))
    await pass_time(clock, 1)
    assert shelf.ids == ["next"]
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_the_end_gives_a_last_chance(caplog: pytest.LogCaptureFixture) -> None:
    """What waits is stored if the journal takes it now; if not, the loss is logged and no task is left."""
    clock, shelf = FakeClock(), Shelf()
    outgoing = Outgoing("door", shelf.put, clock, OutgoingOptions())
    leftovers = Leftovers(clock, "door")
    outgoing.put(SPEC, happened("last"))
    await outgoing.close(leftovers, 0.5)
    assert shelf.ids == ["last"]
    shelf.error = Unavailable("away")
    outgoing.put(SPEC, happened("lost"))
    closing = asyncio.ensure_future(outgoing.close(leftovers, 0.5))
    await pass_time(clock, 2)
    await closing
    assert any("1 event(s) were lost" in record.message for record in caplog.records)
    assert asyncio.all_tasks() == {asyncio.current_task()}

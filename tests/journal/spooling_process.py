"""Appends events for ever to a journal that comes and goes, and says which were acknowledged; to be killed at any moment.

Started once with a folder. For each line on its input it forks a child that opens journal and spool and
appends; the child's process id comes first, then the id of each acknowledged event; "ended" comes last.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.events import Event, EventKind, Picture
from face_server.domain.streams import StreamSpec
from face_server.errors import Conflict, Unavailable
from face_server.journal.passing import PassingJournal
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal
from face_server.journal.sqlite import SqliteJournal


def say(word: str) -> None:
    """One line, written at once or not at all."""
    os.write(1, f"{word}\n".encode())


class ComingAndGoing(PassingJournal):
    """Is away for half of the time, and sometimes stores without saying so."""

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """See ``Journal.append``."""
        if time.monotonic() % 0.1 < 0.05:
            raise Unavailable("away")
        stored = await super().append(events, pictures, sinks)
        if random.random() < 0.2:
            raise Unavailable("broke off")
        return stored


async def work(folder: Path, round_name: str) -> None:
    """Append without end."""
    key = Sealer.from_key(bytes(32))
    inner = await SqliteJournal.open(folder / "journal.sqlite", SystemClock(), key)
    with suppress(Conflict):
        await inner.add_stream(StreamSpec("door", "rtsp://10.0.0.9/door"))
    journal = await SpoolingJournal.open(ComingAndGoing(inner), folder / "spool", SystemClock(), key)
    for number in itertools.count():
        name = f"{round_name}-{number:05}"
        made = Event(name, EventKind.PERSON_SEEN, "door", 9e9, 9e9, 9e9, picture=f"p-{name}")
        await journal.append([made], [Picture(made.picture, name.encode() * 500)], {name: ["hook"]})
        say(name)


def main() -> None:
    """Fork a child a line of input."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            say(str(os.getpid()))
            asyncio.run(work(Path(sys.argv[1]), line.strip()))
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()

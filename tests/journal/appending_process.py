"""Appends events and takes deliveries out for ever and says which were acknowledged; to be killed at any moment.

Started once with the path of a journal file. For each line on its input it forks a child that
opens the journal and works; the child's process id comes first, then a line for each step:
"stored ID", "taking ID" before and "taken ID" after a delivery of lane "hook" is taken out,
"died ID" when it became a dead letter; "ended" comes last. Forking spares the imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.events import Event, EventKind, Lane, Picture
from face_server.domain.streams import StreamSpec
from face_server.errors import Conflict
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal

STREAMS = ("door", "gate")
SINKS = ("hook", "mqtt")


def say(*words: str) -> None:
    """One line, written at once or not at all."""
    os.write(1, (" ".join(words) + "\n").encode())


def jpeg(name: str) -> bytes:
    """A picture that only this name has."""
    return f"\N{BLACK SQUARE}{name}".encode() * 400


async def work(path: Path, round_name: str) -> None:
    """Two streams append while one lane of each is taken out."""
    journal = await SqliteJournal.open(path, SystemClock(), Sealer.from_key(bytes(32)))
    for stream in STREAMS:
        with contextlib.suppress(Conflict):
            await journal.add_stream(StreamSpec(stream, "rtsp://user:pa55@cam"))
    loops = (loop(journal, stream) for stream in STREAMS for loop in (lambda j, s: append(j, s, round_name), take))
    await asyncio.gather(*loops)


async def append(journal: SqliteJournal, stream: str, round_name: str) -> None:
    """Two events at a time, which share a picture."""
    for number in itertools.count():
        names = [f"{round_name}-{stream}-{number}-{one}" for one in "ab"]
        shared = f"shared-{names[0]}"
        made = [Event(name, EventKind.PERSON_SEEN, stream, 9e9, 9e9, 9e9, picture=name, frame_picture=shared) for name in names]
        pictures = [Picture(name, jpeg(name)) for name in (*names, shared)]
        await journal.append(made, pictures, dict.fromkeys(names, SINKS))
        for name in names:
            say("stored", name)


async def take(journal: SqliteJournal, stream: str) -> None:
    """In order; every seventh is given up."""
    for number in itertools.count():
        for one in await journal.pending(Lane(stream, "hook"), limit=1):
            say("taking", one.event.id)
            if number % 7:
                await journal.delivered(one.id)
                say("taken", one.event.id)
            else:
                await journal.bury(one.id, "no")
                say("died", one.event.id)


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

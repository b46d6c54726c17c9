"""A process that is killed while it journals."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.events import DeadLetter, Event, Lane
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal

ROUNDS = 24


def test_kill_9_loses_nothing_acknowledged_and_halves_nothing(tmp_path: Path) -> None:
    """Killed 24 times at random moments: no acknowledged event, picture or delivery is lost, doubled or half there."""
    path, moments = tmp_path / "journal.sqlite", random.Random(11)
    script = Path(__file__).with_name("appending_process.py")
    said: dict[str, set[str]] = defaultdict(set)
    with subprocess.Popen([sys.executable, script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(ROUNDS):
            process.stdin.write(f"r{number}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            # Some die while opening or before anything is acknowledged, most in the middle of commits.
            time.sleep(moments.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
            for line in iter(lambda: process.stdout.readline().strip(), "ended"):
                verb, name = line.split()
                said[verb].add(name)
            asyncio.run(_check(path, said))
        process.stdin.close()
    assert len(said["stored"]) > 10 * ROUNDS
    assert len(said["taken"]) > ROUNDS
    assert said["died"]


async def _check(path: Path, said: dict[str, set[str]]) -> None:
    journal = await SqliteJournal.open(path, SystemClock(), Sealer.from_key(bytes(32)))
    try:
        stored = await _all_events(journal)
        names = [one.id for one in stored]
        assert said["stored"] <= set(names)
        assert len(set(names)) == len(names)
        # Events come two at a time or not at all.
        assert {name[:-1] for name in names if name.endswith("a")} == {name[:-1] for name in names if name.endswith("b")}
        for one in random.Random(len(names)).sample(stored, min(60, len(stored))):
            assert await journal.picture(one.picture) == f"\N{BLACK SQUARE}{one.picture}".encode() * 400
            assert len(await journal.picture(one.frame_picture)) > 400
        letters = await _all_letters(journal)
        for stream in ("door", "gate"):
            own = [one.id for one in stored if one.stream_id == stream]
            assert await _pending(journal, Lane(stream, "mqtt")) == own
            waiting = await _pending(journal, Lane(stream, "hook"))
            dead = [one.event.id for one in letters if one.lane.stream_id == stream]
            gone = own[: len(own) - len(waiting)]
            # The tail of the lane waits in order; its head was taken out or given up, nothing of it without being tried.
            assert waiting == own[len(gone) :]
            assert set(gone) <= said["taking"]
            assert (said["taken"] | said["died"]) & set(own) <= set(gone)
            assert len(set(dead)) == len(dead)
            assert set(dead) <= set(gone) - said["taken"]
            assert said["died"] & set(own) <= set(dead)
    finally:
        await journal.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        counted = connection.execute("SELECT (SELECT COUNT(*) FROM events), (SELECT IFNULL(SUM(LENGTH(jpeg)), 0) FROM pictures)").fetchone()
        assert connection.execute("SELECT events, picture_bytes FROM totals").fetchone() == counted
        lanes = "SELECT COUNT(*) FROM lanes WHERE pending <> (SELECT COUNT(*) FROM deliveries WHERE lane_key = key)"
        assert connection.execute(lanes).fetchone() == (0,)
        assert connection.execute("SELECT COUNT(*) FROM pictures WHERE id NOT IN (SELECT picture_id FROM picture_uses)").fetchone() == (0,)
    connection.close()


async def _all_events(journal: SqliteJournal) -> list[Event]:
    found: list[Event] = []
    while page := await journal.events(after=found[-1].cursor if found else 0, limit=1_000):
        found += page
    return found


async def _all_letters(journal: SqliteJournal) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    while page := await journal.dead_letters(after=found[-1].id if found else 0, limit=1_000):
        found += page
    return found


async def _pending(journal: SqliteJournal, lane: Lane) -> list[str]:
    """All that waits in a lane, read past the largest page."""
    with sqlite3.connect(journal._path) as connection:
        rows = connection.execute(
            "SELECT e.id FROM deliveries d JOIN lanes l ON l.key = d.lane_key JOIN events e ON e.cursor = d.cursor "
            "WHERE l.stream_id = ? AND l.sink_key = ? ORDER BY d.id",
            (lane.stream_id, lane.sink_key),
        ).fetchall()
    connection.close()
    names = [name for (name,) in rows]
    assert [one.event.id for one in await journal.pending(lane, limit=1_000)] == names[:1_000]
    return names

"""A process that is killed while it enrols."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from face_server.clock import SystemClock
from face_server.gallery.sqlite import SqliteGallery
from face_server.workers import Workers

ROUNDS = 22
TEMPLATES = 3


def test_kill_9_loses_nothing_acknowledged_and_halves_nothing(tmp_path: Path, workers: Workers) -> None:
    """Killed 22 times at random moments: every acknowledged person is whole, no other is half, index equals store."""
    path, moments = tmp_path / "gallery.sqlite3", random.Random(7)
    script = Path(__file__).with_name("enrolling_process.py")
    acknowledged: set[str] = set()
    with subprocess.Popen([sys.executable, script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(ROUNDS):
            process.stdin.write(f"r{number}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            # Some die while opening or before anything is acknowledged, most in the middle of commits.
            time.sleep(moments.uniform(0.0, 0.35))
            os.kill(child, signal.SIGKILL)
            acknowledged |= set(iter(lambda: process.stdout.readline().strip(), "ended"))
            asyncio.run(_check(path, workers, acknowledged))
        process.stdin.close()
    assert len(acknowledged) > ROUNDS


async def _check(path: Path, workers: Workers, acknowledged: set[str]) -> None:
    gallery = await SqliteGallery.open(path, workers, SystemClock())
    try:
        assert await gallery.index_differences() == 0
        if not await gallery.collections():
            assert not acknowledged
            return
        people = await gallery.identities("all", limit=10_000)
        assert acknowledged <= {one.id for one in people}
        assert {one.templates for one in people} <= {TEMPLATES}
        records = await gallery.records("all", limit=10_000)
        assert sorted(one.template.id for one in records) == sorted(f"{one.id}-{index}" for one in people for index in range(TEMPLATES))
        assert all(one.crop is not None and len(one.crop) == 3_002 for one in records)
    finally:
        await gallery.close()

"""Ending tasks within a bound."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from face_server.clock import FakeClock, SystemClock
from face_server.errors import SourceFailed
from face_server.streams.patience import Leftovers, spawn


async def test_a_task_that_failed_in_the_last_moment_is_no_surprise():
    """The error of a task that ended by itself is taken note of; asyncio does not complain, and nothing is waited for."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> None:
        raise SourceFailed("the connection broke off")

    task = spawn(fail(), "failing")
    await asyncio.wait({task})
    # A clock that stands still: waiting for anything would last for ever.
    assert await asyncio.wait_for(Leftovers(FakeClock(), "door").end([task], 1.0), 5)
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_task_that_does_not_end_is_cut_off_and_counted():
    """What ignores its cancellation is let run, and counted until it ends."""
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    leftovers = Leftovers(SystemClock(), "door")
    task = spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    assert not await leftovers.end([task], 0.05)
    assert leftovers.running == 1
    let_go.set()
    await task
    assert leftovers.running == 0

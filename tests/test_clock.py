"""The clocks: the system's runs, the fake one is moved."""

from __future__ import annotations

import asyncio
import time

from face_server.clock import FakeClock, SystemClock


async def test_the_system_clock_runs() -> None:
    """Its now is Unix time; monotonic and sleep agree."""
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 1
    before = clock.monotonic()
    await clock.sleep(0.02)
    assert 0.015 < clock.monotonic() - before < 5


async def test_the_fake_clock_stands_until_it_is_moved() -> None:
    """Sleepers wake in the order they are due, each at its own time, those of later not at all."""
    clock, woken = FakeClock(now=100.0), []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.now(), clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(*one)) for one in (("b", 2.0), ("a", 1.0), ("c", 2.0), ("late", 9.0))]
    await asyncio.sleep(0)
    assert woken == []
    await clock.advance(3.0)
    assert woken == [("a", 101.0, 1.0), ("b", 102.0, 2.0), ("c", 102.0, 2.0)]
    assert (clock.now(), clock.monotonic()) == (103.0, 3.0)
    tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await clock.advance(10.0)
    assert len(woken) == 3


async def test_sleeping_for_nothing_only_yields() -> None:
    """0 seconds need no moving."""
    clock = FakeClock()
    await clock.sleep(0)
    assert clock.monotonic() == 0

"""The pool of worker threads, and mapping within a bound."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from face_server.errors import InvalidInput, Unavailable
from face_server.workers import LIVE_LEAD_S, Workers, available_cores, live_work, map_bounded


class Thing:
    """Something that a weak reference can watch."""


async def test_results_and_errors_come_back_to_the_caller(workers: Workers):
    """A value is returned, an error raised, both made in a worker thread."""

    def fail() -> None:
        raise InvalidInput("no")

    assert (await workers.run(threading.current_thread)).name.startswith("worker-")
    with pytest.raises(InvalidInput, match="no"):
        await workers.run(fail)


async def test_as_many_run_at_once_as_there_are_threads():
    """Two threads meet at a barrier of two; a third job waits for its turn."""
    with Workers(2) as workers:
        barrier = threading.Barrier(2)
        await asyncio.wait_for(asyncio.gather(workers.run(barrier.wait, 5), workers.run(barrier.wait, 5)), 5)

        assert workers.threads == 2


def test_one_more_thread_than_cores_is_the_default():
    """It fills the gaps that the event loop leaves."""
    with Workers() as workers:
        assert workers.threads == available_cores() + 1


async def test_cancelling_drops_what_has_not_started():
    """A queued job whose caller left never runs; the running one ends by itself."""
    ran: list[str] = []
    gate = threading.Event()
    with Workers(1) as workers:
        first = asyncio.create_task(workers.run(gate.wait, 5))
        second = asyncio.create_task(workers.run(ran.append, "second"))
        await asyncio.sleep(0.02)
        second.cancel()
        gate.set()
        await first
        await workers.run(ran.append, "third")

    assert ran == ["third"]


async def test_closing_cancels_the_queue_and_waits_for_running_work():
    """Nobody waits for ever: queued callers are cancelled, the running one gets its answer."""
    gate = threading.Event()
    workers = Workers(1)
    running = asyncio.create_task(workers.run(gate.wait, 5))
    queued = asyncio.create_task(workers.run(time.sleep, 0))
    await asyncio.sleep(0.02)
    threading.Timer(0.05, gate.set).start()
    await asyncio.to_thread(workers.close)

    assert await running
    with pytest.raises(asyncio.CancelledError):
        await queued
    workers.close()
    with pytest.raises(RuntimeError):
        await workers.run(time.sleep, 0)


async def test_an_idle_thread_keeps_nothing_alive(workers: Workers):
    """The last job's arguments and result are garbage once the caller lets go of them."""
    thing = Thing()
    watched = weakref.ref(thing)
    await workers.run(lambda one: one, thing)
    del thing
    await workers.run(int)
    await workers.run(int)
    gc.collect()

    assert watched() is None


async def test_map_keeps_the_order_and_the_bound():
    """Results are in the order of the items; no more than the limit run at once."""
    running = most = 0

    async def double(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (5 - item))
        running -= 1
        return 2 * item

    assert await map_bounded(double, range(5), 2) == [0, 2, 4, 6, 8]
    assert most == 2


async def test_map_raises_the_first_error_with_its_own_cause():
    """The error is not wrapped in a group, the others are cancelled, and what caused it is still there."""
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise Unavailable("away") from OSError("cable")
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(item)

    with pytest.raises(Unavailable) as raised:
        await map_bounded(work, [0, 1, 2], 3)

    assert isinstance(raised.value.__cause__, OSError)
    assert sorted(ended) == [0, 2]


async def _marked(workers: Workers, done: list[str], name: str, *, live: bool) -> None:
    live_work.set(live)
    await workers.run(done.append, name)


async def test_live_work_goes_before_other_work():
    """What a camera asks for overtakes what has waited less than the lead."""
    done: list[str] = []
    with Workers(1) as workers:
        gate = threading.Event()
        blocker = asyncio.create_task(workers.run(gate.wait, 5))
        await asyncio.sleep(0.01)
        waiting = [
            asyncio.create_task(_marked(workers, done, name, live=name.startswith("live")))
            for name in ("bulk 1", "bulk 2", "live 1", "live 2")
        ]
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(blocker, *waiting)
    assert done == ["live 1", "live 2", "bulk 1", "bulk 2"]


async def test_other_work_is_not_starved_by_live_work():
    """What has waited longer than the lead goes before newer live work."""
    done: list[str] = []
    with Workers(1) as workers:
        gate = threading.Event()
        blocker = asyncio.create_task(workers.run(gate.wait, 5))
        await asyncio.sleep(0.01)
        old = asyncio.create_task(_marked(workers, done, "old bulk", live=False))
        await asyncio.sleep(LIVE_LEAD_S + 0.05)
        new = asyncio.create_task(_marked(workers, done, "new live", live=True))
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(blocker, old, new)
    assert done == ["old bulk", "new live"]

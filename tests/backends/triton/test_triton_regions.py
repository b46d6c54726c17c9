"""Shared memory: who has it, who may have it, and that none of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferenceServerClient

from face_server.backends.triton import regions
from face_server.backends.triton.buddy import BuddyBlocks
from face_server.backends.triton.options import SharedMemory
from face_server.backends.triton.payload import Payload
from face_server.backends.triton.regions import FOLDER, PREFIX, SystemRegion, SystemRegions, make_region, remove_regions_of_the_dead
from face_server.errors import ConfigurationError
from face_server.workers import Workers

MEGABYTE = 1 << 20


def files() -> set[str]:
    """The regions of this process."""
    return {path.name for path in FOLDER.glob(f"{PREFIX}{os.getpid()}_*")}


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No test may leave a region behind."""
    before = files()
    yield
    assert files() == before


def descriptors_open() -> int:
    """The descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def registered(url: str) -> set[str]:
    """The regions of this program that a server knows."""
    with contextlib.closing(InferenceServerClient(url)) as client:
        return {name for name in client.get_system_shared_memory_status().regions if name.startswith(PREFIX)}


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1 << 16)), max_size=60))
def test_blocks_never_overlap(steps: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given, blocks are disjoint, large enough and inside; all given back they are one again."""
    blocks = BuddyBlocks(1 << 16, 1 << 8)
    taken: dict[int, int] = {}
    for give, count in steps:
        if give and taken:
            offset = sorted(taken)[count % len(taken)]
            blocks.give(offset)
            del taken[offset]
        elif (offset := blocks.take(count)) is not None:
            assert 0 <= offset <= blocks.size - count
            assert all(offset + count <= other or other + size <= offset for other, size in taken.items())
            taken[offset] = count
    assert blocks.taken == len(taken)
    for offset in taken:
        blocks.give(offset)
    assert blocks.take(1 << 16) == 0


async def test_bound(workers: Workers) -> None:
    """The pool grows to its bound and no further; what is given back can be had again."""
    pool = SystemRegions(64 * MEGABYTE, workers)
    leases = await asyncio.gather(*(pool.lease(16 * MEGABYTE) for _ in range(6)))
    assert sum(lease is None for lease in leases) == 2
    assert len(files()) == 2
    pool.give_back(leases[0])
    assert await pool.lease(10 * MEGABYTE) is not None
    assert await pool.lease(33 * MEGABYTE) is None
    await pool.close()
    await pool.close()
    assert await pool.lease(1) is None


async def test_left_while_a_region_is_made() -> None:
    """A caller that leaves before its region is made leaves no file behind."""
    busy = threading.Event()
    with Workers(1) as workers:
        blocking = asyncio.create_task(workers.run(busy.wait))
        making = asyncio.create_task(make_region(4096, workers))
        await asyncio.sleep(0.05)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        busy.set()
        await blocking
        await workers.run(int)
        await asyncio.sleep(0.05)
    assert not list(FOLDER.glob(f"{PREFIX}{os.getpid()}_*"))


async def test_too_small_a_bound(workers: Workers) -> None:
    """A bound below the smallest block means no shared memory, not an error."""
    assert await SystemRegions(1000, workers).lease(1) is None


async def test_no_room(workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system has no room, tensors go by the network, with one warning, and no file stays."""
    monkeypatch.setattr(regions, "REGION_BYTES", 1 << 46)
    pool = SystemRegions(1 << 47, workers)
    assert await pool.lease(MEGABYTE) is None
    assert await pool.lease(MEGABYTE) is None
    assert caplog.text.count("no room for more shared memory") == 1
    await pool.close()


OWNER = """
import time
from face_server.backends.triton.regions import SystemRegion
region = SystemRegion(4096)
print(region.name, flush=True)
time.sleep(60)
"""


def test_only_the_dead_are_cleaned_up() -> None:
    """Regions whose owner lives stay, those of a process that was killed go, whatever its number was."""
    mine = SystemRegion(4096)
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        assert not remove_regions_of_the_dead()
        other.kill()
    assert (FOLDER / theirs).exists()
    # A process id that is in use again proves nothing: only the lock counts.
    again = FOLDER / f"{PREFIX}{os.getppid()}_of_another"
    (FOLDER / theirs).rename(again)
    assert again.name in remove_regions_of_the_dead()
    assert (FOLDER / mine.name).exists()
    mine.close()


def test_regions_are_private() -> None:
    """Pictures of faces lie in them: nobody but the same user may read them."""
    region = SystemRegion(4096)
    assert (FOLDER / region.name).stat().st_mode & 0o777 == 0o600
    region.close()


async def test_large_tensors_take_the_short_way(shop, open_client, rows) -> None:
    """A large tensor goes through one region, which the server is told of once; a small one makes none."""
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM)
    await client.call("sum", rows(1), ["sums"])
    assert not files()
    for value in range(5):
        answer = await client.call("sum", rows(value, count=3, width=200_000), ["sums"])
        assert answer["sums"].ravel().tolist() == [value] * 3
    assert len(files()) == 1
    assert registered(shop.url) == files()
    await client.close()
    assert not files()
    assert not registered(shop.url)


async def test_exhausted_memory_falls_back(shop, open_client, rows) -> None:
    """Twenty calls of 2 MB at once on 4 MB of shared memory are all answered, those without memory by the network."""
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM, shared_memory_bytes=4 * MEGABYTE)
    calls = [client.call("sum", rows(value, width=2_000_000), ["sums"]) for value in range(20)]
    assert [answer["sums"].item() for answer in await asyncio.gather(*calls)] == list(range(20))
    assert client._pool.leased == 0


async def test_any_memory_layout(shop, open_client) -> None:
    """Mirrored and sliced tensors arrive as what they show."""
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM)
    values = np.random.default_rng(3).integers(0, 9, (8, 100_000), np.uint8)
    for view in (values[::2], values[:3, ::-1], values[:4, ::2]):
        answer = await client.call("sum", {"rows": view}, ["sums"])
        assert answer["sums"].ravel().tolist() == view.sum(1).tolist()


async def test_server_that_forgot(shop, open_client, rows) -> None:
    """A server that was told to forget all regions is told of them again, within the same call."""
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM)
    await client.call("sum", rows(1, width=100_000), ["sums"])
    with contextlib.closing(InferenceServerClient(shop.url)) as other:
        other.unregister_system_shared_memory()
    assert not registered(shop.url)
    answer = await client.call("sum", rows(2, width=100_000), ["sums"])
    assert answer["sums"].item() == 2
    assert registered(shop.url) == files()


async def test_server_that_sees_other_memory(shop, open_client, rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the server does not find this host's regions, ``auto`` takes the network and ``system`` is an error."""
    monkeypatch.setattr(regions, "FOLDER", tmp_path)
    client = await open_client(shop.url, shared_memory=SharedMemory.AUTO)
    answer = await client.call("sum", rows(2, width=100_000), ["sums"])
    assert answer["sums"].item() == 2
    assert client.description.endswith("(network)")
    with pytest.raises(ConfigurationError, match="does not see this host's shared memory"):
        await open_client(shop.url, shared_memory=SharedMemory.SYSTEM)


async def test_cancelled_while_copying(shop, open_client, rows, workers: Workers) -> None:
    """Callers that leave while their tensors are copied take no memory with them."""
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM)
    sent = rows(1, width=8_000_000)
    await client.call("sum", sent, ["sums"])
    for turns in range(12):
        tasks = [asyncio.create_task(client.call("sum", sent, ["sums"])) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        while client._pool.leased:  # noqa: ASYNC110 - worker threads give it back
            await asyncio.sleep(0.01)
    assert (await client.call("sum", sent, ["sums"]))["sums"].item() == 1


async def test_memory_stays_with_a_copy_that_runs(rows, until) -> None:
    """A caller that leaves before its tensors are copied keeps the memory until the copy is over: nobody else writes there meanwhile."""
    free = threading.Event()
    with Workers(1) as worker, contextlib.ExitStack() as stack:
        stack.callback(free.set)
        pool = SystemRegions(32 * MEGABYTE, worker)
        pool.give_back(await pool.lease(1))
        busy = asyncio.create_task(worker.run(free.wait))
        payload = Payload("sum", rows(1, width=8_000_000), ["sums"], pool, worker, 1)
        copying = asyncio.create_task(payload.shared_message())
        await asyncio.sleep(0.05)
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        payload.release()
        assert pool.leased == 1
        free.set()
        await until(lambda: pool.leased == 0)
        await busy
        await pool.close()


async def test_large_messages_are_made_in_worker_threads(rows) -> None:
    """While every worker is busy a large message waits and the event loop does not make it; a small one is made at once."""
    free = threading.Event()
    with Workers(1) as worker, contextlib.ExitStack() as stack:
        stack.callback(free.set)
        busy = asyncio.create_task(worker.run(free.wait))
        small, large = (Payload("sum", rows(1, width=width), ["sums"], None, worker, 10 * MEGABYTE) for width in (1000, 8_000_000))
        async with asyncio.timeout(1):
            await small.message()
        making = asyncio.create_task(large.message())
        await asyncio.sleep(0.1)
        assert not making.done()
        free.set()
        assert len(await making) > 8_000_000
        await busy


async def test_two_thousand_calls_leave_nothing(shop, open_client, rows) -> None:
    """2,000 calls at once, small and large, some cancelled: no lease, task, file or descriptor is left."""
    before = asyncio.all_tasks()
    client = await open_client(shop.url, shared_memory=SharedMemory.SYSTEM, max_waiting=2000, max_concurrent=32, timeout_s=60)
    small, large = rows(1), rows(1, width=100_000)
    await client.call("sum", large, ["sums"])
    descriptors, running = descriptors_open(), len(asyncio.all_tasks())
    tasks = [asyncio.create_task(client.call("sum", large if number % 4 == 0 else small, ["sums"])) for number in range(2000)]
    await asyncio.sleep(0.1)
    for task in tasks[::10]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert cancelled <= 200
    assert sum(isinstance(answer, dict) for answer in answers) == 2000 - cancelled
    assert client._pool.leased == 0
    assert len(asyncio.all_tasks()) == running
    assert descriptors_open() <= descriptors
    await client.close()
    assert asyncio.all_tasks() == before
    assert not registered(shop.url)


KILLED = """
import asyncio, sys
import numpy as np
from face_server.backends.triton.client import TritonClient
from face_server.backends.triton.options import TritonOptions
from face_server.clock import SystemClock
from face_server.workers import Workers

async def main():
    with Workers(1) as workers:
        client = await TritonClient.open(TritonOptions((sys.argv[1],)), workers, SystemClock(), [])
        await client.call("sum", {"rows": np.ones((1, 100_000), np.uint8)}, ["sums"])
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_kill_9_leaves_nothing_after_the_next_start(shop, open_client) -> None:
    """A client that is killed leaves a region behind; the next start removes it here and at the server."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, shop.url, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    left = {path.name for path in FOLDER.glob(f"{PREFIX}{process.pid}_*")}
    assert len(left) == 1
    assert left <= registered(shop.url)
    await open_client(shop.url)
    assert not any((FOLDER / name).exists() for name in left)
    assert not left & registered(shop.url)

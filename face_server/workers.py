"""The one pool of threads for work that would block the event loop.

Decoding, warping, drawing and network inference release the GIL, so threads use the cores and
processes are not needed. One pool with as many threads as cores, shared by all of them, keeps
the cores full without oversubscribing them.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores this process may use (container and affinity limits respected), at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


class Workers:
    """A fixed number of worker threads behind an awaitable ``run``.

    The queue in front of the threads is bounded by the admission limit of the callers (HTTP
    requests in flight, streams), not here: work that was admitted is never refused half-way.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="worker")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a worker thread. Cancelling drops it if it has not started."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, functools.partial(function, *args, **kwargs))

    def close(self) -> None:
        """Drop queued work and wait for running work to end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


async def map_bounded(function: Callable[[T], Awaitable[R]], items: Sequence[T], limit: int) -> list[R]:
    """``function`` of every item, in order, at most ``limit`` at once.

    The first error cancels the others and is raised as it is, not inside a group.
    """
    if len(items) == 1:
        return [await function(items[0])]
    slots = asyncio.Semaphore(limit)

    async def limited(item: T) -> R:
        async with slots:
            return await function(item)

    error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
    except ExceptionGroup as errors:
        error = errors.exceptions[0]
    if error is not None:
        # Outside of the handler: inside it the group would replace the error's own cause.
        raise error
    return [task.result() for task in tasks]

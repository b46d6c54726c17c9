"""The one pool of threads for work that would block the event loop.

Decoding, warping, drawing and network inference release the GIL, so threads use the cores and
processes are not needed. One pool with as many threads as cores, shared by all of them, keeps
the cores full without oversubscribing them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores this process may use (container and affinity limits respected), at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


LIVE_LEAD_S = 0.25
"""Work for live cameras goes before other work that came up to this much earlier; older work is not kept waiting."""

live_work: ContextVar[bool] = ContextVar("live_work", default=False)
"""Whether this task works for a live camera, whose frames are worth nothing a second later."""


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    due_s: float


class Workers:
    """A fixed number of worker threads behind an awaitable ``run``.

    The queue in front of the threads is bounded by the admission limit of the callers (HTTP
    requests in flight, streams), not here: work that was admitted is never refused half-way.
    One thread more than cores is the default: the event loop and the hand-over between threads leave
    gaps that it fills (a tenth more pictures a second on two cores).
    A picture passes through here a few times, so a pass is one queue, one future and one
    wake-up of the loop; an executor behind ``run_in_executor`` takes two futures and more locks.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_cores() + 1
        self._queue = _Queue()
        self._closed = False
        self._pool = [
            threading.Thread(target=_work, args=(self._queue,), name=f"worker-{number}", daemon=True) for number in range(self.threads)
        ]
        for thread in self._pool:
            thread.start()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a worker thread. Cancelling drops it if it has not started."""
        if self._closed:
            raise RuntimeError("the worker threads are closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(functools.partial(function, *args, **kwargs), future, loop, time.monotonic()))
        return await future

    def close(self) -> None:
        """Cancel queued work and wait for running work to end. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for job in self._queue.close(len(self._pool)):
            _tell(job, job.future.cancel)
        for thread in self._pool:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Queue:
    """Jobs that wait, live ones ahead of others by ``LIVE_LEAD_S``. Deques are safe to share; the tokens count their jobs."""

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._live: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()

    def put(self, job: _Job) -> None:
        if live_work.get():
            job.due_s -= LIVE_LEAD_S
            self._live.append(job)
        else:
            self._bulk.append(job)
        self._tokens.put(True)

    def get(self) -> _Job | None:
        """The next job, waiting for one; None once closed."""
        while self._tokens.get():
            # Another thread may be faster at one deque: each token stands for a job in one of them.
            while self._live or self._bulk:
                with contextlib.suppress(IndexError):
                    live_first = self._live and not (self._bulk and self._bulk[0].due_s < self._live[0].due_s)
                    return (self._live if live_first else self._bulk).popleft()
        return None

    def close(self, threads: int) -> list[_Job]:
        """Take out what waits, and send every thread home."""
        left: list[_Job] = []
        for jobs in (self._live, self._bulk):
            with contextlib.suppress(IndexError):
                while True:
                    left.append(jobs.popleft())
        for _ in range(threads):
            self._tokens.put(False)
        return left


def _work(jobs: _Queue) -> None:
    """What a worker thread does until it is given None."""
    while job := jobs.get():
        if not job.future.cancelled():
            try:
                result = job.work()
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller who waits
                _tell(job, functools.partial(_fail, job.future, error))
            else:
                _tell(job, functools.partial(_finish, job.future, result))
                del result
        # An idle thread must not keep the last picture alive.
        del job


def _tell(job: _Job, callback: Callable[[], object]) -> None:
    # A loop that was closed meanwhile has nobody waiting.
    with contextlib.suppress(RuntimeError):
        job.loop.call_soon_threadsafe(callback)


def _finish(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


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

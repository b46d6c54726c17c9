"""One thread that writes to a SQLite file: jobs in order, those that wait worked off together.

Synchronising the disk takes most of a commit, so whatever queues up meanwhile shares the next one.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from face_server.errors import FaceServerError, Overloaded, Unavailable

_GROUP = 64

T = TypeVar("T")


class Job(Protocol):
    """What waits for the thread."""

    @property
    def future(self) -> Future[Any]:
        """The promise of its result."""
        ...


J = TypeVar("J", bound=Job)


class WritingThread(Generic[J]):
    """Takes jobs from any thread and hands them to ``work_off`` in its own, a group at a time.

    ``work_off`` settles the future of every job, or raises for all of them. ``afterwards`` is
    called after each group with it and whether nothing more waits just now, and returns the seconds after
    which it wants to be called again although nothing came, or None. ``store`` names the file in messages.
    The connection is closed at the end.
    """

    def __init__(
        self,
        store: str,
        connection: sqlite3.Connection,
        *,
        max_waiting: int,
        work_off: Callable[[list[J]], None],
        afterwards: Callable[[list[J], bool], float | None],
    ) -> None:
        self._store = store
        self._connection = connection
        self._max_waiting = max_waiting
        self._work_off = work_off
        self._afterwards = afterwards
        self._jobs: queue.Queue[J | None] = queue.Queue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"{store}-writer", daemon=True)
        self._thread.start()

    def submit(self, job: J) -> None:
        """Queue a job. Raises Unavailable once closed, Overloaded beyond the bound."""
        with self._closing:
            if self._closed:
                raise Unavailable(f"the {self._store} is closed", code="closed")
            if self._jobs.qsize() >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} changes to the {self._store} are waiting already")
            self._jobs.put(job)

    def close(self) -> None:
        """Finish what is queued and release the connection. Blocking; idempotent."""
        with self._closing:
            first, self._closed = not self._closed, True
        if first:
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._connection):
            ended, again_s = False, None
            while not ended:
                waiting, ended = self._next_jobs(again_s)
                jobs = [job for job in waiting if job.future.set_running_or_notify_cancel()]
                try:
                    if jobs:
                        self._work_off(jobs)
                except Exception as error:  # noqa: BLE001 - the edge of the thread: whoever waits must hear of anything
                    for job in jobs:
                        if not job.future.done():
                            job.future.set_exception(error)
                again_s = self._afterwards(jobs, ended or self._jobs.empty())

    def _next_jobs(self, again_s: float | None) -> tuple[list[J], bool]:
        """What waits now, up to a bound, and whether there will be no more."""
        jobs: list[J] = []
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=again_s)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _GROUP:
                    return jobs, False
                job = self._jobs.get_nowait()
            return jobs, True
        return jobs, False


def attempt(connection: sqlite3.Connection, work: Callable[[], T]) -> T | FaceServerError:
    """The result of one write inside a transaction, or the error for which it alone was undone.

    Any other error is raised: then the whole transaction must be undone.
    """
    outcome: T | FaceServerError
    connection.execute("SAVEPOINT job")
    try:
        outcome = work()
    except FaceServerError as error:
        connection.execute("ROLLBACK TO job")
        outcome = error
    connection.execute("RELEASE job")
    return outcome


def settle(jobs: Sequence[Job], outcomes: Sequence[Any]) -> None:
    """Keep the promise of each job with its outcome."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, FaceServerError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

"""Who may use a journal file when: one thread that writes, and a few that read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from face_server.errors import FaceServerError, InvalidInput, Unavailable
from face_server.sqlite_file import connect, forget_erased, snapshot, storage_errors, transaction
from face_server.sqlite_writer import WritingThread, attempt, settle

T = TypeVar("T")

_READERS = 3
_FORGET_AGAIN_S = 2.0
_FORGET_TIMEOUT_S = 0.2
# What may be the fault of one write in a group: the others get another try without it.
_ONES_FAULT = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT})

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _input_errors() -> Iterator[None]:
    """Translate what Python's SQLite module says of values that no column can hold."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidInput("the text is not Unicode: it holds half of a surrogate pair") from error
    except OverflowError as error:
        raise InvalidInput("the number is beyond 64 bits") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    erases: bool
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """The one thread that writes to a journal; see ``sqlite_writer``.

    A job may run more than once, always from the same state, and takes effect once.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, busy_timeout_s: float, max_waiting: int) -> None:
        self._path = path
        self._connection = connection
        self._busy_timeout_s = busy_timeout_s
        self._remembers = False
        self._thread = WritingThread("journal", connection, max_waiting=max_waiting, work_off=self._commit_together, afterwards=self._tidy)

    def write(self, work: Callable[[sqlite3.Connection], T], *, erases: bool = False) -> Future[T]:
        """Run ``work`` in a transaction: if it raises, nothing of it is kept.

        The future is done when it is on disk. What a job ``erases`` leaves the log of the file soon after.
        """
        job = _Job(work, erases)
        self._thread.submit(job)
        return job.future

    def close(self) -> None:
        """Finish what is queued and release the connection. Blocking; idempotent."""
        self._thread.close()

    def _commit_together(self, jobs: list[_Job]) -> None:
        try:
            with storage_errors(self._path):
                try:
                    with transaction(self._connection):
                        outcomes = [attempt(self._connection, partial(self._call, job)) for job in jobs]
                except sqlite3.Error as error:
                    if len(jobs) == 1 or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _ONES_FAULT:
                        raise
                    for job in jobs:
                        self._commit_together([job])
                    return
        except FaceServerError as error:
            outcomes = [error] * len(jobs)
        settle(jobs, outcomes)

    def _call(self, job: _Job) -> Any:
        with _input_errors():
            return job.work(self._connection)

    def _tidy(self, jobs: list[_Job], idle: bool) -> float | None:
        """Empty the log of what was erased, once nobody waits for a write."""
        self._remembers |= any(job.erases for job in jobs)
        if self._remembers and idle:
            self._forget_erased()
        return _FORGET_AGAIN_S if self._remembers else None

    def _forget_erased(self) -> None:
        """Empty the log, without making events wait long for somebody who reads an older state."""
        try:
            with storage_errors(self._path):
                self._connection.execute(f"PRAGMA busy_timeout={int(_FORGET_TIMEOUT_S * 1000)}")
                forgotten = forget_erased(self._connection)
                self._connection.execute(f"PRAGMA busy_timeout={int(self._busy_timeout_s * 1000)}")
        except Unavailable as error:
            _log.warning("erased rows leave the log of the journal later: %s", error)
            forgotten = False
        self._remembers = not forgotten


class Readers:
    """A few threads, each with a connection of its own to read with."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-reader")
        self._own = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of ``work``, which sees the file as of one moment. Errors of SQLite are translated."""
        if self._closed:
            raise Unavailable("the journal is closed", code="closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, work)

    async def close(self) -> None:
        """Let running reads end and close the connections. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._release)

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with storage_errors(self._path), _input_errors():
            connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
            if connection is None:
                connection = self._own.connection = connect(self._path, busy_timeout_s=self._busy_timeout_s, writable=False)
                self._opened.append(connection)
            with snapshot(connection):
                return work(connection)

    def _release(self) -> None:
        self._threads.shutdown(wait=True)
        while self._opened:
            self._opened.pop().close()

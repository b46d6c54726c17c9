"""Who may use a gallery file when: one thread that writes, and connections to read with."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from face_server.errors import Unavailable
from face_server.gallery.indexes import Indexes
from face_server.gallery.refusals import closed
from face_server.sqlite_file import connect, forget_erased, storage_errors, transaction
from face_server.sqlite_writer import WritingThread, attempt, settle

T = TypeVar("T")

_ERASE_AGAIN_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Effects:
    """What writes did that the indexes and the log of the file must follow."""

    collections: set[int] = field(default_factory=set)
    erased: bool = False

    def add(self, other: Effects) -> None:
        """Take those of another write in."""
        self.collections |= other.collections
        self.erased |= other.erased


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Callable[[sqlite3.Connection, Effects], Any]
    writes: bool
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """The one thread that writes: jobs in order, those that wait committed together.

    A write's future is done when the store has it on disk and the index follows. What it erased
    has left the file by then too, or does within seconds where another process holds it open.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, indexes: Indexes, *, max_pending: int) -> None:
        self._path = path
        self._connection = connection
        self._indexes = indexes
        self._remembers = False
        self._thread = WritingThread("gallery", connection, max_waiting=max_pending, work_off=self._work_off, afterwards=self._tidy)

    def write(self, work: Callable[[sqlite3.Connection, Effects], T]) -> Future[T]:
        """Run ``work`` in a transaction: if it raises, nothing of it is kept."""
        return self._submit(_Job(work, writes=True))

    def exclusively(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Run ``work`` outside a transaction, while this process writes nothing."""
        return self._submit(_Job(lambda connection, _: work(connection), writes=False))

    def close(self) -> None:
        """Finish what is queued and release the connection. Blocking; idempotent."""
        self._thread.close()

    def _submit(self, job: _Job) -> Future[Any]:
        self._thread.submit(job)
        return job.future

    def _work_off(self, jobs: list[_Job]) -> None:
        writes = [job for job in jobs if job.writes]
        if writes:
            self._commit_together(writes)
        for job in jobs:
            if not job.writes:
                with storage_errors(self._path):
                    job.future.set_result(job.work(self._connection, Effects()))

    def _commit_together(self, jobs: list[_Job]) -> None:
        effects = Effects()
        with storage_errors(self._path):
            with transaction(self._connection):
                outcomes = [attempt(self._connection, partial(self._call, job, effects)) for job in jobs]
            for collection in effects.collections:
                self._indexes.follow(self._connection, collection)
        if effects.erased:
            self._forget_erased()
        settle(jobs, outcomes)

    def _call(self, job: _Job, effects: Effects) -> Any:
        own = Effects()
        outcome = job.work(self._connection, own)
        effects.add(own)
        return outcome

    def _tidy(self, _jobs: list[_Job], _idle: bool) -> float | None:
        """Try again to empty the log while another process holds an older state open."""
        if self._remembers:
            try:
                self._forget_erased()
            except Unavailable as error:
                _log.warning("erased rows leave the log of the gallery later: %s", error)
        return _ERASE_AGAIN_S if self._remembers else None

    def _forget_erased(self) -> None:
        with storage_errors(self._path):
            forgotten = forget_erased(self._connection)
        if not forgotten and not self._remembers:
            _log.warning("%s is read by another process: erased rows leave its log later", self._path.name)
        self._remembers = not forgotten


class Readers:
    """Connections to read with: one a thread at a time, kept for the next."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._closed = threading.Event()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """A connection for the block. Errors of SQLite in it are translated."""
        if self._closed.is_set():
            raise closed()
        with storage_errors(self._path):
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = connect(self._path, busy_timeout_s=self._busy_timeout_s, writable=False)
            try:
                yield connection
            finally:
                self._idle.put(connection)
                if self._closed.is_set():
                    self.close()

    def close(self) -> None:
        """Close what is idle now, and the others when they come back. Idempotent."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

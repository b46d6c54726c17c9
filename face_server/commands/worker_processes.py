"""Several server processes on one port: started, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from face_server.app_state import Replica
from face_server.errors import ConfigurationError

MAX_WORKERS = 64

_READY = b"r"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkersOptions:
    """``grace_s`` is how long workers may take to end.

    One that died is started again after ``first_pause_s``, which doubles up to ``last_pause_s`` while it dies within ``well_s``.
    """

    grace_s: float = 10.0
    first_pause_s: float = 0.5
    last_pause_s: float = 30.0
    well_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's own number, from 0, and the sockets that it inherits.

    ``link`` is its end of the pair that leads to its parent, ``listener`` listens; both are numbers of files.
    """

    number: int
    link: int
    listener: int

    def __str__(self) -> str:
        return f"{self.number}:{self.link}:{self.listener}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what ``str`` wrote. ConfigurationError for anything else."""
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() and part.isascii() for part in parts):
            raise _not_ours()
        return cls(*map(int, parts))

    def listening(self) -> socket.socket:
        """The listening socket that the parent opened."""
        try:
            return socket.socket(fileno=self.listener)
        except OSError as error:
            raise _not_ours() from error


def check_workers(count: int, *, runs_streams: bool, shared: bool) -> None:
    """Raise ConfigurationError for what only makes sense among several replicas; ``shared`` says whether there is a Redis for them."""
    if count > 1 and not shared:
        raise ConfigurationError(
            f"--workers {count} needs a Redis: without one each process would have its own index and run every camera; "
            "set FACE_SERVER_STATE__REDIS_URL, or serve with one process, whose threads use all cores"
        )
    if not runs_streams and not shared:
        raise ConfigurationError(
            "--no-streams needs a Redis: without one no other process could run the streams; set FACE_SERVER_STATE__REDIS_URL"
        )


class WorkerProcesses:
    """``count`` processes that accept connections of one listening socket.

    ``command`` gives the command line of a worker for its place. A worker calls ``report_ready`` when it serves,
    and ends when its parent does. Others are started when the first one is ready: if that cannot start, nothing
    does. One that dies later, however it does, is started again.
    """

    def __init__(
        self, command: Callable[[Place], Sequence[str]], count: int, listener: socket.socket, options: WorkersOptions | None = None
    ) -> None:
        self._command = command
        self._count = count
        self._listener = listener
        self._options = options or WorkersOptions()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._leaving = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code: 0, or that of the first worker if it could not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leaving.set)
        ready = asyncio.Event()
        keepers = [asyncio.create_task(self._keep(0, ready), name="worker 0")]
        first = asyncio.create_task(ready.wait())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({first, leaving, keepers[0]}, return_when=asyncio.FIRST_COMPLETED)
            if keepers[0].done():
                return keepers[0].result()
            if ready.is_set():
                keepers += [
                    asyncio.create_task(self._keep(number, asyncio.Event()), name=f"worker {number}") for number in range(1, self._count)
                ]
            await leaving
        finally:
            for task in (first, leaving):
                task.cancel()
            codes = await self._end(keepers)
        return max(codes, default=0)

    async def _keep(self, number: int, ready: asyncio.Event) -> int:
        """Keep one worker going until the end. Returns its exit code; early if it was the first start of all that failed."""
        pause_s = self._options.first_pause_s
        while True:
            began = time.monotonic()
            code = await self._serve(number, ready)
            if self._leaving.is_set() or (number == 0 and not ready.is_set()):
                return code
            if time.monotonic() - began > self._options.well_s:
                pause_s = self._options.first_pause_s
            _log.error("worker %d %s; it is started again in %g s", number, _how(code), pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), pause_s)
                return 0
            pause_s = min(2 * pause_s, self._options.last_pause_s)

    async def _serve(self, number: int, ready: asyncio.Event) -> int:
        """One life of one worker. Returns its exit code."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                place = Place(number, theirs.fileno(), self._listener.fileno())
                # A session of its own: Ctrl-C of a terminal comes to the parent, which passes it on once.
                process = await asyncio.create_subprocess_exec(
                    *self._command(place), pass_fds=(place.link, place.listener), start_new_session=True
                )
            self._processes[number] = process
            if self._leaving.is_set():
                process.terminate()
            hearing = asyncio.create_task(_hear(ours, ready))
            try:
                return await process.wait()
            finally:
                del self._processes[number]
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)

    async def _end(self, keepers: Sequence[asyncio.Task[int]]) -> list[int]:
        """End every worker: by a word, and after a while by force. Returns the exit codes of those that were asked."""
        self._leaving.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        _, late = await asyncio.wait(keepers, timeout=self._options.grace_s)
        for process in list(self._processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if late:
            _log.error("%d worker(s) did not end within %g s and were killed", len(late), self._options.grace_s)
            await asyncio.wait(late)
        # One that had not learnt to end in good order yet was ended by the word itself.
        return [0 if keeper.result() == -signal.SIGTERM else abs(keeper.result()) for keeper in keepers]


async def report_ready(place: Place, leave: Callable[[], None]) -> None:
    """Tell the parent that this worker serves, and ``leave`` when the parent is gone. Returns then; to be run as a task."""
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=place.link) as link:
        link.setblocking(False)
        with contextlib.suppress(OSError):
            await loop.sock_sendall(link, _READY)
            await loop.sock_recv(link, 1)
    leave()


def replica_of(place: Place | None, *, port: int, own_port: int, url: str, runs_streams: bool) -> Replica:
    """What this process is among others.

    ``port`` is the one that clients use, ``own_port`` the one that leads to this very worker, ``url`` what
    the operator says of how others reach this machine (empty: nothing). Workers reach each other on their own ports.
    """
    name = f"{socket.gethostname()}:{port}"
    if place is None:
        return Replica(name, url, runs_streams)
    parts = urlsplit(url or "http://127.0.0.1")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Replica(f"{name}/{place.number}", f"{parts.scheme}://{host}:{own_port}", runs_streams)


async def _hear(link: socket.socket, ready: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        if await asyncio.get_running_loop().sock_recv(link, 1):
            ready.set()


def _not_ours() -> ConfigurationError:
    return ConfigurationError("--as-worker is for the processes that `face-server serve --workers` starts")


def _how(code: int) -> str:
    """How a process ended, for people."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

"""Redis servers of Debian's package, to be killed, frozen and started again: one, under Sentinel, as a Cluster, and a line that cuts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.receivers import free_port

PROGRAM = "redis-server"
DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")

_START_S = 30.0
_QUORUM = 2


def missing() -> str:
    """Why no Redis can be started here; empty if one can."""
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not installed"


class RedisServer:
    """One server that keeps its port and its data. Every acknowledged write is on disk unless ``options`` say otherwise."""

    def __init__(self, folder: Path, *options: str, password: str = "", port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.password = password
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        access = f":{self.password}@" if self.password else ""
        return f"redis://{access}127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """Its unix socket."""
        return self.folder / "redis.sock"

    def start(self) -> Self:
        """Start, and wait until it answers."""
        access = ("--requirepass", self.password, "--masterauth", self.password) if self.password else ()
        place = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--unixsocket", str(self.socket))
        line = [PROGRAM, *place, *DURABLE, *access, *self._options]
        # SIGXFSZ stays ignored, as it is here: past a limit on the size of files, writing fails as on a full disk.
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(line, stdout=quiet, stderr=quiet, restore_signals=False)
        until(lambda: self._answers() or self.process is None or self.process.poll() is not None, "redis-server")
        if self.process.poll() is not None:
            raise RuntimeError("redis-server did not start")
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.command("PING"))
        return False

    def command(self, *words: Any, port: int = 0) -> Any:
        """Run one command."""
        with redis.Redis(port=port or self.port, password=self.password or None, socket_timeout=60) as client:
            return client.execute_command(*words)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.process is not None:
            os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """Stand still with every connection open."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Be gone, without a word to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


class SentinelSite:
    """A master with two replicas and three Sentinels, which make a replica master within a second or two."""

    SERVICE = "faces"

    def __init__(self, folder: Path, down_after_ms: int = 1_000) -> None:
        self._folder = folder
        self._down_after_ms = down_after_ms
        self.servers: list[RedisServer] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.sentinel_ports = [free_port() for _ in range(3)]

    @property
    def url(self) -> str:
        """Its address."""
        places = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{places}/{self.SERVICE}/0"

    @property
    def master(self) -> RedisServer:
        """The server that Sentinel calls master now."""
        with redis.Redis(port=self.sentinel_ports[0], socket_timeout=5) as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def __enter__(self) -> Self:
        for number in range(3):
            folder = self._folder / f"server-{number}"
            folder.mkdir()
            follows = ("--replicaof", f"127.0.0.1 {self.servers[0].port}") if self.servers else ()
            self.servers.append(RedisServer(folder, "--repl-diskless-sync-delay", "0", *follows).start())
        until(lambda: self.servers[0].command("INFO", "replication")["connected_slaves"] == 2, "the replicas")
        for number, port in enumerate(self.sentinel_ports):
            config = self._folder / f"sentinel-{number}.conf"
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {self._folder}",
                f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.servers[0].port} {_QUORUM}",
            ]
            lines += [
                f"sentinel down-after-milliseconds {self.SERVICE} {self._down_after_ms}",
                f"sentinel failover-timeout {self.SERVICE} 10000",
            ]
            config.write_text("\n".join([*lines, ""]))
            line = [PROGRAM, str(config), "--sentinel"]
            self._processes.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until(self._agree, "the Sentinels")
        return self

    def _agree(self) -> bool:
        for port in self.sentinel_ports:
            with contextlib.suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=5) as client:
                state = client.sentinel_master(self.SERVICE)
                if state["num-slaves"] == 2 and state["num-other-sentinels"] == 2:
                    continue
            return False
        return True

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.thaw()
            server.kill()


class ClusterSite:
    """Three masters that share the slots."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Its address."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def __enter__(self) -> Self:
        slots = 16_384
        for number in range(3):
            folder = self._folder / f"node-{number}"
            folder.mkdir()
            port = _port_with_bus()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "yes")
            server = RedisServer(folder, *options, port=port).start()
            first, last = number * slots // 3, (number + 1) * slots // 3 - 1
            server.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.servers.append(server)
        for server in self.servers[1:]:
            server.command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        until(lambda: all(b"cluster_state:ok" in _text(one.command("CLUSTER", "INFO")) for one in self.servers), "the Cluster")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for server in self.servers:
            server.thaw()
            server.kill()


def _text(reply: Any) -> bytes:
    """What CLUSTER INFO says, whatever the library made of it."""
    if isinstance(reply, dict):
        return "\n".join(f"{name}:{value}" for name, value in reply.items()).encode()
    return reply if isinstance(reply, bytes) else str(reply).encode()


def _port_with_bus() -> int:
    """A free port of which 10000 more is a port too."""
    while (port := free_port()) > 55_000:
        pass
    return port


class Line:
    """A TCP line to a port of this machine that can be slow, cut, or dead. In a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.dead = False
        self._target = target_port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)

    @property
    def url(self) -> str:
        """The address of a Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", self.port), self._loop).result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection that is open now; new ones work unless ``dead``."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if not self.dead:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(back)
                try:
                    await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
                finally:
                    self._writers.discard(back)
                    back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes, each piece ``delay_s`` after it came, in order; an end ends the other side."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(piece)
                await writer.drain()

        writing = asyncio.create_task(write())
        try:
            while piece := await reader.read(65_536):
                pieces.put_nowait((time.monotonic() + self.delay_s, piece))
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            writer.transport.abort()


def until(holds: Callable[[], object], what: str, timeout_s: float = _START_S) -> None:
    """Wait until ``holds``."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come about within {timeout_s:g} s")
        time.sleep(0.02)

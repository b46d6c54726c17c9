"""Real receivers of events, which can go away, freeze and come back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import aiomqtt
import grpc
import pytest
import redis

from face_server.domain.events import Event, EventKind, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.streams import SinkKind, SinkSpec
from face_server.sinks.grpc_callback import METHOD
from face_server.sinks.inference_result_pb2 import InferenceCallbackRequest, InferenceCallbackResponse

MOSQUITTO = "/usr/sbin/mosquitto"


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until ``condition``, which may be a coroutine function, holds."""
    async with asyncio.timeout(timeout_s):
        while not (await holds if inspect.isawaitable(holds := condition()) else holds):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


def event(number: int = 1, kind: EventKind = EventKind.PERSON_SEEN, stream_id: str = "door", **changes: Any) -> Event:
    """An event whose id ends in ``number``."""
    who = None if kind in (EventKind.STREAM_LOST, EventKind.STREAM_RECOVERED) else Who("张三", 0.7123, 0.4, "default", "id-1")
    box = Box(100.0, 50.0, 180.0, 150.0)
    made = Event(
        id=f"event{number:06d}",
        kind=kind,
        stream_id=stream_id,
        at=1_700_000_000.5 + number,
        started_at=1_700_000_000.25,
        ended_at=1_700_000_000.75,
        track=7,
        who=who,
        box=box if who else None,
        frame_width=640,
        frame_height=360,
        picture="best" if who else "",
        frame_picture="frame" if who else "",
        faces=(SceneFace(7, box, 0.93, who, announced=True, picture="best"),) if who else (),
        message=f"number {number}",
        cursor=number,
    )
    return replace(made, **changes)


class Receiver(Protocol):
    """Somewhere events go."""

    spec: SinkSpec

    async def received(self) -> list[str]:
        """Ids of the events that arrived, in order."""
        ...

    async def leave(self) -> None:
        """End, as a machine does whose plug is pulled."""
        ...

    async def come_back(self) -> None:
        """Be there again, under the same address."""
        ...

    def freeze(self) -> None:
        """Take connections and answer nothing."""
        ...

    def thaw(self) -> None:
        """Answer again."""
        ...


class GrpcReceiver:
    """Serves the callback; ``status`` other than None is what it answers with."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.port = free_port()
        self.spec = SinkSpec(SinkKind.GRPC, f"localhost:{self.port}", tls=credentials is not None)
        self.requests: list[InferenceCallbackRequest] = []
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.deadlines: list[float] = []
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()

    async def come_back(self) -> None:
        """Serve."""
        # Only one may listen, so that two servers never share the calls.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 32 * 2**20)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._checkpoint, InferenceCallbackRequest.FromString, InferenceCallbackResponse.SerializeToString
        )
        service, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, self._credentials)
        await self._server.start()

    async def leave(self) -> None:
        """Stop serving."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def freeze(self) -> None:
        """Keep callers waiting."""
        self._open.clear()

    def thaw(self) -> None:
        """Answer."""
        self._open.set()

    async def received(self) -> list[str]:
        """Ids as they stand in the end of the alert: the callback has no event ids, so the tests count by time."""
        return [
            f"event{round(json.loads(request.analysis_result)['behaviorEndTime'] / 1000) - 1_700_000_000:06d}" for request in self.requests
        ]

    async def _checkpoint(self, request: InferenceCallbackRequest, context: Any) -> InferenceCallbackResponse:
        self.deadlines.append(context.time_remaining())
        await self._open.wait()
        if self.status is not None:
            await context.abort(self.status, self.details)
        self.requests.append(request)
        return InferenceCallbackResponse(code=-7, msg="whatever")


@dataclass
class Request:
    """One HTTP request."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


@dataclass
class HttpReceiver:
    """Takes webhooks; ``answers`` are bytes to answer with, one each, before it answers 204."""

    path: str = "/hook?a=b"
    scheme: str = "http"
    tls: Any = None
    requests: list[Request] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = field(default_factory=free_port)
    secret: str = "shared secret"

    def __post_init__(self) -> None:
        self.spec = SinkSpec(SinkKind.WEBHOOK, f"{self.scheme}://localhost:{self.port}{self.path}", secret=self.secret)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def come_back(self) -> None:
        """Serve."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)

    async def leave(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            self._server = None

    def freeze(self) -> None:
        """Keep callers waiting."""
        self._open.clear()

    def thaw(self) -> None:
        """Answer."""
        self._open.set()

    async def received(self) -> list[str]:
        """Ids of the header."""
        return [request.headers["x-face-server-event"] for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers["content-length"]))
                await self._open.wait()
                answer = self.answers.pop(0) if self.answers else b"HTTP/1.1 204 Thanks\r\n\r\n"
                if answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")):
                    self.requests.append(Request(head[0], headers, body))
                writer.write(answer)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


class Daemon:
    """A process of a test, on a port of its own."""

    def __init__(self, line: list[str], port: int) -> None:
        if shutil.which(line[0]) is None:
            pytest.skip(f"needs {line[0]}, which is not installed")
        self._line = line
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start and wait until it listens."""
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(self._line, stdout=quiet, stderr=quiet)  # noqa: ASYNC220 - takes a millisecond
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self.process is not None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Broker:
    """Mosquitto, and somebody who listens to all it says. Its sessions survive it, so that nothing acknowledged is missed."""

    def __init__(self, folder: Path, *lines: str, user: str = "") -> None:
        port = free_port()
        access = lines or ("allow_anonymous true",)
        config = folder / "mosquitto.conf"
        # Told to be root, it would give up root and then not read its own folder.
        keeping = ("persistence true", f"persistence_location {folder}/", "autosave_on_changes true", "autosave_interval 1", "user root")
        config.write_text("\n".join([f"listener {port} 127.0.0.1", *keeping, *access, ""]))
        self._daemon = Daemon([MOSQUITTO, "-c", str(config)], port)
        self._user = user
        self.port = port
        self.spec = SinkSpec(SinkKind.MQTT, f"mqtt://{user + '@' if user else ''}localhost:{port}", topic="home/faces")
        self.messages: list[tuple[str, bytes, bool]] = []
        self._listening = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def come_back(self) -> None:
        """Start, and listen."""
        await self._daemon.start()
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        async with asyncio.timeout(10):
            await self._listening.wait()

    async def leave(self) -> None:
        """Be killed."""
        self._daemon.kill()
        self._listening.clear()

    def freeze(self) -> None:
        """Be stopped by the system."""
        self._daemon.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._daemon.signal(signal.SIGCONT)

    async def received(self) -> list[str]:
        """Ids of events, in order."""
        return [json.loads(payload)["id"] for topic, payload, _ in self.messages if topic.endswith("/event")]

    async def close(self) -> None:
        """End everything."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        self._daemon.kill()

    async def _listen(self) -> None:
        name, _, password = self._user.partition(":")
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                options: dict[str, Any] = {"username": name, "password": password} if name else {}
                async with aiomqtt.Client("127.0.0.1", self.port, identifier="listener", clean_session=False, **options) as client:
                    await client.subscribe("#", qos=1)
                    self._listening.set()
                    async for message in client.messages:
                        assert isinstance(message.payload, bytes)
                        self.messages.append((str(message.topic), message.payload, message.retain))
            await asyncio.sleep(0.02)


class RedisServer:
    """A Redis that forgets nothing."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        port = free_port()
        keeping = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder)]
        access = ["--requirepass", password] if password else []
        self._daemon = Daemon(["redis-server", "--port", str(port), "--bind", "127.0.0.1", *keeping, *access, *options], port)
        self.port = port
        self.key = "cameras"
        self.password = password
        self.spec = SinkSpec(SinkKind.REDIS, f"redis://{f':{password}@' if password else ''}localhost:{port}/2", topic=self.key)

    async def come_back(self) -> None:
        """Start."""
        await self._daemon.start()

    async def leave(self) -> None:
        """Be killed."""
        self._daemon.kill()

    def freeze(self) -> None:
        """Be stopped by the system."""
        self._daemon.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._daemon.signal(signal.SIGCONT)

    def entries(self) -> list[dict[bytes, bytes]]:
        """What the stream holds."""
        with redis.Redis(port=self.port, db=2, password=self.password or None) as client:
            return [fields for _, fields in client.xrange(self.key)]

    def command(self, *words: object) -> Any:
        """Run one command."""
        with redis.Redis(port=self.port, db=2, password=self.password or None) as client:
            return client.execute_command(*words)

    async def received(self) -> list[str]:
        """Ids of the entries."""
        return [entry[b"id"].decode() for entry in await asyncio.to_thread(self.entries)]

    async def close(self) -> None:
        """End."""
        self._daemon.kill()


class LogReceiver(logging.Handler):
    """Reads the log of events."""

    spec = SinkSpec(SinkKind.LOG)

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)

    async def received(self) -> list[str]:
        """Ids of the lines."""
        return [record.fields["event_id"] for record in self.records]  # type: ignore[attr-defined]  # what ``extra`` gave it


@contextlib.asynccontextmanager
async def grpc_receiver(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[GrpcReceiver]:
    """A gRPC receiver that serves."""
    receiver = GrpcReceiver(credentials)
    await receiver.come_back()
    try:
        yield receiver
    finally:
        receiver.thaw()
        await receiver.leave()


@contextlib.asynccontextmanager
async def http_receiver(**options: Any) -> AsyncIterator[HttpReceiver]:
    """An HTTP receiver that serves."""
    receiver = HttpReceiver(**options)
    await receiver.come_back()
    try:
        yield receiver
    finally:
        receiver.thaw()
        await receiver.leave()


@contextlib.asynccontextmanager
async def broker(folder: Path, *lines: str, user: str = "") -> AsyncIterator[Broker]:
    """A broker that runs."""
    receiver = Broker(folder, *lines, user=user)
    try:
        await receiver.come_back()
        yield receiver
    finally:
        await receiver.close()


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *options: str, password: str = "") -> AsyncIterator[RedisServer]:
    """A Redis that runs."""
    receiver = RedisServer(folder, *options, password=password)
    try:
        await receiver.come_back()
        yield receiver
    finally:
        await receiver.close()


@contextlib.contextmanager
def log_receiver() -> Iterator[LogReceiver]:
    """A reader of the log."""
    receiver = LogReceiver()
    logger = logging.getLogger("face_server.events")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(receiver)
    try:
        yield receiver
    finally:
        logger.removeHandler(receiver)
        logger.setLevel(level)

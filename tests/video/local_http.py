"""A small HTTP server on loopback whose answers are bytes, so that it can break every rule."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LocalServer:
    """Answers by path; ``requests`` holds the head of every request, ``open`` counts connections."""

    port: int = 0
    answers: dict[str, Answer | bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str, host: str = "pictures.example", scheme: str = "http") -> str:
        """The URL of ``path`` under a host name."""
        return f"{scheme}://{host}:{self.port}{path}"

    def header(self, name: str) -> str | None:
        """A header of the last request, None if it was not sent."""
        lines = self.requests[-1].split("\r\n")[1:]
        values = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.lower() == name]
        assert len(values) <= 1
        return values[0] if values else None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        self.open += 1
        self.idle.clear()
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(head)
            path = head.split(" ")[1].partition("?")[0]
            answer = self.answers.get(path, reply(b"nothing here", status=404))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away, which some tests want
        finally:
            writer.close()
            self.open -= 1
            if not self.open:
                self.idle.set()


def reply(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> bytes:
    """A whole response; underscores in header names become hyphens."""
    lines = [f"HTTP/1.1 {status} Reason", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def local_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[LocalServer]:
    """A server on a free port of 127.0.0.1."""
    local = LocalServer()
    server = await asyncio.start_server(local.serve, "127.0.0.1", 0, ssl=tls)
    local.port = server.sockets[0].getsockname()[1]
    try:
        yield local
    finally:
        server.close()

"""The journal's scripts in Redis: how they are run, and what their refusals mean.

Each script does one thing all or nothing; ``lua/`` holds them. All keys of a journal lie in one slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from face_server.errors import ConfigurationError, FaceServerError, InvalidInput, Overloaded, Unavailable
from face_server.redis_connection import Connection

LAYOUT = 1
AREA = "journal"

# Of the connections that all stores share, leave some to others.
_AT_ONCE = 24

Argument = str | bytes | int | float

_REFUSAL = re.compile(r"(CHANGED|MISUSED|DAMAGED|SEALED|UNKNOWN|OWNED|EXISTS|FULL|REMOVED)(?: (.*))?", re.DOTALL)
# Scripts that deal with deliveries share more.
_WITH_OUTBOX = frozenset(
    {"append", "claim", "discard", "lanes", "letters", "pending", "prune", "release", "renew", "replay", "settle", "stream"}
)

_log = logging.getLogger(__name__)


class Refused(Exception):
    """Raised when a script refuses, in one word of its own; nothing was changed."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(word)
        self.word = word
        self.detail = detail


def _load(name: str) -> tuple[bytes, str]:
    folder = resources.files("face_server.journal") / "lua"
    parts = ["common", *(["outbox"] if name in _WITH_OUTBOX else []), name]
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts).encode()
    return text, hashlib.sha1(text, usedforsecurity=False).hexdigest()


_SCRIPTS = {name: _load(name) for name in (*_WITH_OUTBOX, "keys", "open", "page", "rename", "rewrite", "specs")}


class Scripts:
    """Runs scripts against one journal. Errors of Redis are translated; at most ``max_waiting`` changes run or wait at once."""

    def __init__(self, connection: Connection, *, max_waiting: int, title: str = "the journal") -> None:
        self.connection = connection
        self._title = title
        self._max_waiting = max_waiting
        self._writing = 0
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._closed = False

    def key(self, name: str) -> str:
        """The whole name of a key."""
        return self.connection.key(AREA, f"v{LAYOUT}", name)

    def close(self) -> None:
        """Run nothing more."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether nothing is run any more."""
        return self._closed

    async def command(self, what: str, *words: Argument) -> Any:
        """One command that only reads; ``what`` it is about is named in errors."""
        # A Cluster finds the node by the command's name, as text.
        name, *rest = words
        return await self._guarded(what, lambda: self.connection.client.execute_command(str(name), *_encoded(rest)))

    async def read(self, script: str, *arguments: Argument) -> Any:
        """Run a script that changes nothing."""
        return await self._run(script, arguments, copies=0)

    async def write(self, script: str, *arguments: Argument) -> Any:
        """Run a script that changes something. Raises Refused when it does not want to, Overloaded beyond ``max_waiting``.

        Unavailable leaves open whether it was done.
        """
        if self._writing >= self._max_waiting:
            raise Overloaded("too many changes wait for Redis; try again later", retry_after_s=1.0)
        self._writing += 1
        try:
            return await self._run(script, arguments, copies=self.connection.options.wait_replicas)
        finally:
            self._writing -= 1

    async def _run(self, script: str, arguments: tuple[Argument, ...], *, copies: int) -> Any:
        text, digest = _SCRIPTS[script]
        tail = ("1", self.key("about"), *_encoded(arguments))

        async def run() -> Any:
            try:
                return await self._send(("EVALSHA", digest, *tail), copies)
            except NoScriptError:
                return await self._send(("EVAL", text, *tail), copies)

        return await self._guarded(f"{self._title} {self.key('')[:-1]}", run)

    async def _guarded(self, what: str, send: Callable[[], Awaitable[Any]]) -> Any:
        if self._closed:
            raise Unavailable(f"{self._title} is closed", code="closed")
        async with self.errors(what), self._place():
            try:
                return await send()
            except ResponseError as error:
                if refusal := _REFUSAL.match(str(error)):
                    raise Refused(refusal[1], refusal[2] or "") from error
                raise

    @contextlib.asynccontextmanager
    async def errors(self, what: str) -> AsyncIterator[None]:
        """Translate errors of Redis in the block, and let no request to end be lost in it."""
        task = asyncio.current_task()
        asked = task.cancelling() if task else 0
        try:
            async with self.connection.errors(what):
                yield
        except FaceServerError:
            if task and task.cancelling() > asked:
                raise asyncio.CancelledError from None
            raise
        # The client (8.1) sometimes answers as if nobody had cancelled it.
        if task and task.cancelling() > asked:
            raise asyncio.CancelledError

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Be one of those who talk to Redis now. TimeoutError if that takes as long as Redis itself may."""
        async with asyncio.timeout(self.connection.options.timeout_s):
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    async def _send(self, command: tuple[Any, ...], copies: int) -> Any:
        client = self.connection.client
        if not copies:
            return await client.execute_command(*command)
        async with client.pipeline(transaction=False) as pipe:
            pipe.execute_command(*command)
            pipe.execute_command("WAIT", copies, int(self.connection.options.timeout_s * 500))
            result, reached = await pipe.execute(raise_on_error=False)
        for one in (result, reached):
            if isinstance(one, Exception):
                raise one
        if reached < copies:
            raise Unavailable(
                f"only {reached} of {copies} replicas of {self.connection} had the change in time",
                code="storage_unavailable",
                retry_after_s=1.0,
            )
        return result


def _encoded(arguments: Sequence[Argument]) -> list[bytes]:
    try:
        return [one if isinstance(one, bytes) else str(one).encode() for one in arguments]
    except UnicodeEncodeError as error:
        raise InvalidInput("the text is not Unicode: it holds half of a surrogate pair") from error


def explained(refusal: Refused, connection: Connection, origin: str) -> FaceServerError:
    """The error of our tree for a refusal that any script may give; ``origin`` is where the sealing key comes from."""
    if refusal.word == "SEALED":
        return ConfigurationError(
            f"{origin} is not the one that the camera addresses at {connection} were encrypted with: put that key back, "
            "or choose another namespace to begin without streams and events"
        )
    if refusal.word in ("MISUSED", "DAMAGED"):
        return Unavailable(
            f"the key {refusal.detail} ({connection}); nothing was changed",
            code="redis_foreign_key" if refusal.word == "MISUSED" else "storage_corrupt",
            retry_after_s=60.0,
        )
    return Unavailable(f"the journal at {connection} is being replaced", code="storage_busy", retry_after_s=1.0)

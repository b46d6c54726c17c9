"""The scripts that a gallery runs in Redis, and what they refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from face_server.errors import FaceServerError, ModelMismatch, Unavailable
from face_server.gallery import refusals
from face_server.gallery.redis_layout import AREA, VERSION, damaged
from face_server.redis_connection import Connection

_FOLDER = Path(__file__).with_name("lua")
_COMMON = (_FOLDER / "common.lua").read_text("ascii")
_TEXTS = {name: f"{_COMMON}\n{(_FOLDER / f'{name}.lua').read_text('ascii')}" for name in ("apply", "collections", "follow", "read")}
_DIGESTS = {name: hashlib.sha1(text.encode("ascii"), usedforsecurity=False).hexdigest() for name, text in _TEXTS.items()}

Argument = str | bytes | int


class HistoryGone(Unavailable):
    """Raised where the store has become empty: it begins anew within moments."""


class OtherModel(ModelMismatch):
    """Raised where the collection in the store is of another model than the caller took it for."""


class Scripts:
    """Runs them on a connection. Each is atomic; one that refuses has changed nothing."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.state = connection.key(AREA, f"v{VERSION}", "state")

    def key(self, *parts: str) -> str:
        """The name of a key of the gallery."""
        return self.connection.key(AREA, f"v{VERSION}", *parts)

    async def call(self, name: str, *arguments: Argument) -> list[Any]:
        """The reply of a script that only reads. Raises what it refuses."""
        async with self.connection.errors("the gallery in Redis"):
            try:
                reply = await self.connection.client.evalsha(_DIGESTS[name], 1, self.state, *arguments)
            except NoScriptError:
                reply = await self.connection.client.eval(_TEXTS[name], 1, self.state, *arguments)
        return _checked(reply)

    async def write(self, name: str, *arguments: Argument) -> list[Any]:
        """The reply of a script that writes, once as many replicas as wanted have it."""
        wanted = self.connection.options.wait_replicas
        if not wanted:
            return await self.call(name, *arguments)
        patience_ms = int(self.connection.options.timeout_s * 500)
        async with self.connection.errors("the gallery in Redis"):
            for command in (("EVALSHA", _DIGESTS[name]), ("EVAL", _TEXTS[name])):
                # WAIT is about the writes of its own connection.
                pipeline = self.connection.client.pipeline(transaction=False)
                pipeline.execute_command(*command, 1, self.state, *arguments)
                pipeline.execute_command("WAIT", wanted, patience_ms)
                reply, reached = await pipeline.execute(raise_on_error=False)
                if not isinstance(reply, NoScriptError):
                    break
            if isinstance(reply, Exception):
                raise reply
        answer = _checked(reply)
        if isinstance(reached, Exception) or reached < wanted:
            count = 0 if isinstance(reached, Exception) else reached
            raise Unavailable(f"the change is made, but only {count} of {wanted} replicas of Redis have it", code="storage_unavailable")
        return answer

    def write_here(self, client: Any, name: str, *arguments: Argument) -> list[Any]:
        """``write`` in the calling thread, for what is too large to be sent by the event loop. Waits for no replica."""
        with self.connection.blocking_errors("the gallery in Redis"):
            try:
                reply = client.evalsha(_DIGESTS[name], 1, self.state, *arguments)
            except NoScriptError:
                reply = client.eval(_TEXTS[name], 1, self.state, *arguments)
        return _checked(reply)


def _checked(reply: Sequence[Any]) -> list[Any]:
    if reply[0] == b"no":
        kind, first, second = (part.decode("utf-8", "replace") for part in reply[1:])
        raise _refusal(kind, first, second)
    return list(reply)


def _refusal(kind: str, first: str, second: str) -> FaceServerError:
    match kind:
        case "collection":
            return refusals.collection_missing(first)
        case "collection-taken":
            return refusals.collection_taken(first)
        case "collections":
            return refusals.too_many_collections(int(first))
        case "identity":
            return refusals.identity_missing(first, second)
        case "template":
            return refusals.template_missing(first, second)
        case "taken":
            return refusals.template_taken(first, second)
        case "full":
            return refusals.too_many_templates(int(first), int(second))
        case "itself":
            return refusals.merged_with_itself()
        case "model":
            return OtherModel(f"the collection is of the model {first}")
        case "unclaimed":
            return HistoryGone("the gallery in Redis was emptied and begins anew", code="storage_unavailable", retry_after_s=1.0)
        case "foreign":
            return Unavailable(
                f"the key {first} holds a {second} that is not from face_server; nothing was changed", code="redis_foreign_key"
            )
        case _:
            return damaged(first, "holds something half-written; nothing was changed")

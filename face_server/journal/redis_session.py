"""One journal in Redis and how this process knows it: also that it was emptied, or put back to an older state."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from face_server.domain.ports import Clock
from face_server.errors import ConfigurationError, FaceServerError, Unavailable
from face_server.journal.redis_scripts import AREA, LAYOUT, Argument, Refused, Scripts, explained
from face_server.journal.sealing import Sealer
from face_server.redis_connection import Connection

_GENERAL = frozenset({"SEALED", "MISUSED", "DAMAGED"})
_CHANGED = "CHANGED"
_TOLD_AT_MOST = 1_000

_log = logging.getLogger(__name__)


class Session:
    """Runs scripts in the name of the journal that was found at first, and follows when there is another in its place.

    ``problem`` is a sentence about what was lost since this process began, empty if nothing was.
    """

    def __init__(self, connection: Connection, sealer: Sealer, clock: Clock, *, max_waiting: int) -> None:
        self.scripts = Scripts(connection, max_waiting=max_waiting)
        self.connection = connection
        self.problem = ""
        self._sealer = sealer
        self._clock = clock
        self._id = ""
        self._finding = asyncio.Lock()
        self._told: set[str] = set()

    @property
    def id(self) -> str:
        """The id of the journal that was found last."""
        return self._id

    @property
    def damage(self) -> list[str]:
        """What was passed over because it cannot be read, a sentence each; at most a thousand."""
        return sorted(self._told)

    async def find(self) -> None:
        """Find the journal, or begin a new one.

        Raises ConfigurationError for a newer layout, for keys that are not ours and for another sealing key.
        """
        await self.connection.claim_layout(AREA, LAYOUT)
        try:
            found = await self.scripts.write("open", secrets.token_hex(8), self._sealer.fingerprint.hex())
        except Refused as refusal:
            raise self._explained(refusal) from refusal
        self._id = found.decode()

    async def read(self, script: str, *arguments: Argument) -> Any:
        """See Scripts."""
        return await self._run(self.scripts.read, script, *arguments)

    async def write(self, script: str, *arguments: Argument) -> Any:
        """See Scripts; of the refusals only those come out that are the script's own."""
        return await self._run(self.scripts.write, script, *arguments)

    def notice_older(self) -> None:
        """The journal is in a state before the one that this process knew."""
        self._notice(f"the journal at {self.connection} was put back to an older state: what was stored after that is gone")

    def tell_damage(self, error: FaceServerError) -> None:
        """Log a damaged record, once."""
        if error.message not in self._told and len(self._told) < _TOLD_AT_MOST:
            self._told.add(error.message)
            _log.error("a record of the journal is passed over: %s", error.message)

    async def _run(self, run: Callable[..., Awaitable[Any]], script: str, *arguments: Argument) -> Any:
        known = self._id
        try:
            return await run(script, known, *arguments)
        except Refused as refusal:
            if refusal.word in _GENERAL:
                raise self._explained(refusal) from refusal
            if refusal.word != _CHANGED:
                raise
        await self._find_again(known)
        try:
            return await run(script, self._id, *arguments)
        except Refused as refusal:
            if refusal.word in (*_GENERAL, _CHANGED):
                raise self._explained(refusal) from refusal
            raise

    def _explained(self, refusal: Refused) -> FaceServerError:
        return explained(refusal, self.connection, self._sealer.origin)

    async def _find_again(self, known: str) -> None:
        async with self._finding:
            if self._id != known:
                return
            try:
                await self.find()
            except ConfigurationError as error:
                # Only an operator can heal it, but not by starting this process anew: whoever waits may go on waiting.
                raise Unavailable(error.message, code="storage_unavailable", retry_after_s=60.0) from error
            if self._id != known:
                self._notice(f"the journal at {self.connection} was emptied or replaced: streams and events that it held are gone")

    def _notice(self, problem: str) -> None:
        if problem not in self.problem:
            self.problem = problem
            _log.error("%s", problem)

"""How many calls may be under way and how many may wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from face_server.errors import Overloaded

_SMOOTHING: Final = 0.2
_LEAST_RETRY_S: Final = 0.1
_MOST_RETRY_S: Final = 30.0


class Admission:
    """``concurrent`` calls at a time, in the order they came; ``waiting`` more may wait for their turn."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._concurrent = concurrent
        self._limit = waiting
        self._typical_s = 0.0
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def slot(self, deadline_s: float) -> AsyncIterator[None]:
        """Hold one of the places; ``deadline_s`` is on the event loop's clock.

        Raises Overloaded if too many wait already, or if no place is free by then.
        """
        loop = asyncio.get_running_loop()
        await self._enter(deadline_s)
        started_s = loop.time()
        try:
            yield
        finally:
            self._slots.release()
            took_s = loop.time() - started_s
            self._typical_s += _SMOOTHING * (took_s - self._typical_s)

    async def _enter(self, deadline_s: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self.waiting >= self._limit:
            raise self._overloaded(f"{self.waiting} calls wait for Triton already, which is the limit")
        self.waiting += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise self._overloaded(f"a call waited its whole time behind {self._concurrent} others for Triton") from error
        finally:
            self.waiting -= 1

    def _overloaded(self, sentence: str) -> Overloaded:
        wait_s = self._typical_s * (1 + self.waiting / self._concurrent)
        return Overloaded(sentence, retry_after_s=min(_MOST_RETRY_S, max(_LEAST_RETRY_S, wait_s)))

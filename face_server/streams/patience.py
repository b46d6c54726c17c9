"""Waiting with an end, by the clock of the service: nothing that hangs may hold up a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

from face_server.domain.ports import Clock
from face_server.errors import FaceServerError

T = TypeVar("T")

_log = logging.getLogger(__name__)


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task that outlives the request which began it: the request's id is not its own."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


async def wait_any(clock: Clock, seconds: float, tasks: Iterable[asyncio.Future[Any]]) -> bool:
    """Wait until one of ``tasks`` is done (True) or ``seconds`` have passed. Cancels none of them."""
    return await _wait(clock, seconds, set(tasks), asyncio.FIRST_COMPLETED)


async def wait_all(clock: Clock, seconds: float, tasks: Iterable[asyncio.Future[Any]]) -> bool:
    """Wait until all of ``tasks`` are done (True) or ``seconds`` have passed. Cancels none of them."""
    return await _wait(clock, seconds, set(tasks), asyncio.ALL_COMPLETED)


async def _wait(clock: Clock, seconds: float, tasks: set[asyncio.Future[Any]], until: str) -> bool:
    alarm = asyncio.ensure_future(clock.sleep(seconds))
    everything = asyncio.ensure_future(asyncio.wait(tasks, return_when=until)) if tasks else None
    try:
        await asyncio.wait({alarm, everything} if everything else {alarm}, return_when=asyncio.FIRST_COMPLETED)
        return everything is None or everything.done()
    finally:
        alarm.cancel()
        if everything:
            everything.cancel()


class Leftovers:
    """Ends tasks, and remembers those that would not: they are let run, counted and named in the log.

    A reader that hangs in a library cannot be killed from inside the process. It can be cut off and
    counted, so that whoever owns it stops making more of them.
    """

    def __init__(self, clock: Clock, owner: str) -> None:
        self._clock = clock
        self._owner = owner
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def running(self) -> int:
        """How many tasks were told to end and have not."""
        return len(self._running)

    async def end(
        self, tasks: Iterable[asyncio.Future[Any]], within_s: float, *, closing: Iterable[Coroutine[Any, Any, None]] = ()
    ) -> bool:
        """Cancel ``tasks``, run ``closing`` beside, and wait for all of it for ``within_s``. Whether all ended.

        Errors on the way out are logged: what ends has nobody left to tell.
        """
        futures: set[asyncio.Future[Any]] = set()
        for task in tasks:
            if task.done():
                # Its owner knows how it ended; asyncio must not complain that nobody asked.
                _ = task.cancelled() or task.exception()
            else:
                task.cancel()
                futures.add(task)
        futures |= {spawn(work, "closing") for work in closing}
        if not futures:
            return True
        # Kept from here on: the wait itself may be cancelled.
        self._running |= futures
        for future in futures:
            future.add_done_callback(self._ended)
        if await wait_all(self._clock, within_s, futures):
            return True
        late = [future for future in futures if not future.done()]
        for future in late:
            future.cancel()
        _log.warning("stream %s: %d part(s) did not end within %g s and were cut off", self._owner, len(late), within_s)
        return False

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, FaceServerError):
            _log.info("stream %s: while ending: %s", self._owner, error)
        elif error is not None:
            _log.error("stream %s: while ending", self._owner, exc_info=error)

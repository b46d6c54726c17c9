"""Which lanes this process delivers, of those that several replicas share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from face_server.domain.events import Lane
from face_server.domain.ports import Clock
from face_server.errors import FaceServerError, InvalidInput

LEASE_S = 6.0
"""For so long a lane stays with an owner that renews its claim no more."""
RENEW_S = 1.5
REVISIT_S = 1.5
# A delivery begins only while the claim is sure to last a little.
_FRESH_S = LEASE_S - 2 * RENEW_S

Run = Callable[..., Awaitable[Any]]

_log = logging.getLogger(__name__)


def lane_name(lane: Lane) -> str:
    """The lane in one text. No stream id holds a slash."""
    if "/" in lane.stream_id:
        raise InvalidInput("the id of a stream holds no /", field="stream_id")
    return f"{lane.stream_id}/{lane.sink_key}"


def lane_of(name: bytes) -> Lane:
    """The lane of a name."""
    stream_id, _, sink_key = name.decode().partition("/")
    return Lane(stream_id, sink_key)


class LaneClaims:
    """The lanes that are this process's: pending entries of a consumer group whose consumer it is.

    Redis measures how long a claim was not renewed. Changes to a delivery by somebody who lost its lane are refused by Redis.
    """

    def __init__(self, run: Run, clock: Clock, owner: str) -> None:
        self._run = run
        self._clock = clock
        self._owner = owner
        self._held: dict[Lane, float] = {}
        self._keeper: asyncio.Task[None] | None = None

    @property
    def lease_ms(self) -> int:
        """The lease, as Redis measures it."""
        return int(LEASE_S * 1000)

    async def claim(self, lane: Lane) -> bool:
        """Own a lane or go on owning it; False if another replica does or nothing waits in it."""
        asked_at = self._clock.monotonic()
        if lane in self._held and asked_at - self._held[lane] < _FRESH_S:
            return True
        if not await self._run("claim", self._owner, self.lease_ms, lane_name(lane)):
            self._held.pop(lane, None)
            return False
        self._held[lane] = asked_at
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="keep lanes")
        return True

    async def release(self, lane: Lane) -> bool:
        """Own a lane no longer; False if something waits in it again, and it stays one's own."""
        kept = await self._run("release", self._owner, 0, lane_name(lane))
        if not kept:
            self._held.pop(lane, None)
        return not kept

    async def close(self) -> None:
        """Leave every lane to others, at once if Redis can be told."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        held, self._held = list(self._held), {}
        if held:
            with contextlib.suppress(FaceServerError):
                await self._run("release", self._owner, 1, *map(lane_name, held))

    async def _keep(self) -> None:
        """Renew the claims, for ever."""
        while True:
            await self._clock.sleep(RENEW_S)
            held, asked_at = list(self._held), self._clock.monotonic()
            if not held:
                continue
            try:
                lost = {lane_of(name) for name in await self._run("renew", self._owner, *map(lane_name, held))}
            except FaceServerError as error:
                _log.warning("claims to deliver cannot be renewed: %s", error.message)
                continue
            for lane in held:
                if lane in self._held:
                    self._held[lane] = max(self._held[lane], asked_at)
            for lane in lost & self._held.keys():
                _log.warning("another replica delivers to %s for stream %s now", lane.sink_key, lane.stream_id)
                del self._held[lane]

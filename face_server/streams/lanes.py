"""The deliveries of one stream to one sink, in order, until they have arrived."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from face_server.domain.events import Delivery, Event, Lane
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import Journal
from face_server.domain.streams import SinkSpec
from face_server.errors import DeliveryRefused, FaceServerError, NotFound, Overloaded, Unavailable
from face_server.streams.destinations import Destination, Destinations

T = TypeVar("T")

CountDelivery = Callable[[str, str], None]
"""Told the kind of a sink and ``delivered``, ``failed`` (will be tried again) or ``dead``."""

_log = logging.getLogger(__name__)

SINK_REMOVED = "the sink was removed"
_JOURNAL_PAUSE_S = 1.0
_GONE_S = 1.0


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How often and for how long a delivery is tried.

    The pause after a failure doubles from ``first_pause_s`` to ``last_pause_s``, less a random part
    of up to half. What could not be delivered for ``max_age_s`` is given up. A sink that has not
    returned after ``deadline_s``, beyond its own deadline, counts as failed. ``unexpected`` errors
    in a row, which are mistakes in a sink, are too many. At most ``places`` deliveries go on at
    once, ``places_per_sink`` of them to one receiver, and ``retry_places`` more to receivers that
    failed last.
    """

    first_pause_s: float = 1.0
    last_pause_s: float = 60.0
    max_age_s: float = 7 * 86400.0
    deadline_s: float = 30.0
    unexpected: int = 5
    places: int = 16
    places_per_sink: int = 4
    retry_places: int = 8
    page: int = 16


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane with something to deliver. ``failures`` in a row and the last error; ``retry_at`` is Unix seconds, None while it is trying."""

    lane: Lane
    failures: int
    last_error: str
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class LaneTools:
    """What lanes share.

    ``find`` gives the sink of a lane as it is configured now, None where it is not known; ``learn`` asks the journal.
    """

    journal: Journal
    destinations: Destinations
    clock: Clock
    options: DeliveryOptions
    find: Callable[[Lane], SinkSpec | None]
    learn: Callable[[Lane], Awaitable[SinkSpec | None]]
    count: CountDelivery
    recovered: Callable[[SinkSpec], None]


class LaneWorker:
    """Delivers what a lane holds, one event after the other; the first that fails is tried until it arrives."""

    def __init__(self, lane: Lane, tools: LaneTools) -> None:
        self.lane = lane
        self.wanted = True
        self._tools = tools
        self._failures = 0
        self._unexpected = 0
        self._last_error = ""
        self._retry_at: float | None = None
        self._gone_until = -math.inf
        self._hurried = asyncio.Event()
        # Spreads attempts over time; nothing secret hangs on it.
        self._random = random.Random()  # noqa: S311 - see above

    @property
    def status(self) -> LaneStatus:
        """The lane right now."""
        return LaneStatus(self.lane, self._failures, self._last_error, self._retry_at)

    def hurry(self) -> None:
        """Try again at once, or as soon as the receiver permits it: something has changed."""
        self._hurried.set()

    async def drain(self) -> None:
        """Deliver until nothing is left, or the lane is another replica's."""
        journal, page = self._tools.journal, self._tools.options.page
        while await self._read(lambda: journal.claim(self.lane)):
            batch = await self._read(lambda: journal.pending(self.lane, limit=page))
            if not batch and await self._read(lambda: journal.release(self.lane)):
                return
            for delivery in batch:
                if not await self._read(lambda: journal.claim(self.lane)):
                    return
                wait_s = await self._deliver(delivery)
                if wait_s is not None:
                    await self._pause(wait_s)
                    break

    async def _deliver(self, delivery: Delivery) -> float | None:
        """Deliver one event or give it up: None. Otherwise the least time in seconds to wait before the next attempt."""
        spec = await self._find()
        if spec is None:
            await self._bury(delivery, SINK_REMOVED)
            return None
        try:
            await self._attempt(spec, delivery)
        except Unavailable as error:
            return await self._failed(delivery, error.message, error.retry_after_s)
        except TimeoutError:
            return await self._failed(delivery, f"the sink did not end within {self._tools.options.deadline_s:g} s", 0.0)
        except FaceServerError as error:
            await self._bury(delivery, error.message)
        except Exception as error:  # noqa: BLE001 - a mistake in one sink must not end the lane, nor block it for good
            return await self._stumbled(delivery, error)
        else:
            await self._note(lambda: self._tools.journal.delivered(delivery.id))
            self._count("delivered")
        self._failures, self._unexpected, self._last_error = 0, 0, ""
        return None

    async def _find(self) -> SinkSpec | None:
        """The sink as it is configured now. That it is gone is true for a while: a long lane asks for it once."""
        clock, tools = self._tools.clock, self._tools
        spec = tools.find(self.lane)
        if spec is None and clock.monotonic() >= self._gone_until:
            spec = await self._read(lambda: tools.learn(self.lane))
            if spec is None:
                self._gone_until = clock.monotonic() + _GONE_S
        return spec

    async def _attempt(self, spec: SinkSpec, delivery: Delivery) -> None:
        """Hand one event to the sink, in turn."""
        async with self._tools.destinations.use(spec) as destination:
            pictures = await self._read(lambda: self._pictures(delivery.event)) if destination.sink.wants_pictures else {}
            try:
                async with asyncio.timeout(self._tools.options.deadline_s):
                    await destination.sink.deliver(delivery.event, pictures)
            except DeliveryRefused:
                self._answered(destination, spec)
                raise
            except Exception:
                destination.doubtful = True
                raise
            self._answered(destination, spec)

    def _answered(self, destination: Destination, spec: SinkSpec) -> None:
        if destination.doubtful:
            destination.doubtful = False
            self._tools.recovered(spec)

    async def _stumbled(self, delivery: Delivery, error: Exception) -> float | None:
        self._unexpected += 1
        _log.exception("delivery %d to %s failed unexpectedly", delivery.id, self.lane.sink_key, exc_info=error)
        message = f"the sink failed unexpectedly: {type(error).__name__}"
        if self._unexpected < self._tools.options.unexpected:
            return await self._failed(delivery, message, 0.0)
        self._unexpected = 0
        await self._bury(delivery, message)
        return None

    async def _failed(self, delivery: Delivery, reason: str, retry_after_s: float) -> float | None:
        """Note a failed attempt, and give up what has waited too long."""
        tools = self._tools
        if tools.clock.now() - delivery.queued_at > tools.options.max_age_s:
            await self._bury(delivery, f"given up after {tools.options.max_age_s / 86400:g} days: {reason}")
            return None
        self._failures += 1
        self._last_error = reason
        self._count("failed")
        if self._failures == 1:
            _log.warning("cannot deliver to %s for stream %s: %s", self.lane.sink_key, self.lane.stream_id, reason)
        await self._note(lambda: tools.journal.failed(delivery.id, reason))
        return max(retry_after_s, tools.options.first_pause_s)

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        await self._note(lambda: self._tools.journal.bury(delivery.id, reason))
        self._count("dead")

    def _count(self, outcome: str) -> None:
        self._tools.count(self.lane.sink_key.partition("-")[0], outcome)

    async def _pictures(self, event: Event) -> dict[str, bytes]:
        """The pictures of an event that are still there."""
        wanted = {event.picture, event.frame_picture, *(face.picture for face in event.faces)} - {""}
        found: dict[str, bytes] = {}
        for picture in sorted(wanted):
            with contextlib.suppress(NotFound):
                found[picture] = await self._tools.journal.picture(picture)
        return found

    async def _read(self, step: Callable[[], Awaitable[T]]) -> T:
        """What the journal answers, however long it cannot be read."""
        while True:
            try:
                return await step()
            except (Unavailable, Overloaded):
                await self._tools.clock.sleep(_JOURNAL_PAUSE_S)

    async def _note(self, step: Callable[[], Awaitable[None]]) -> None:
        """Write to the journal. A delivery that it does not know any more was settled by somebody else."""
        with contextlib.suppress(NotFound):
            await self._read(step)

    async def _pause(self, least_s: float) -> None:
        """Wait before the next attempt: at least ``least_s``, and then as long as failures in a row ask for or until hurried."""
        options, clock = self._tools.options, self._tools.clock
        backoff_s = min(options.first_pause_s * 2.0 ** min(self._failures - 1, 32), options.last_pause_s)
        rest_s = backoff_s * self._random.uniform(0.5, 1.0) - least_s
        self._hurried.clear()
        self._retry_at = clock.now() + max(least_s, least_s + rest_s)
        await clock.sleep(least_s)
        if rest_s > 0:
            ends = {asyncio.ensure_future(clock.sleep(rest_s)), asyncio.create_task(self._hurried.wait())}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        self._retry_at = None

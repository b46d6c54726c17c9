"""Events on their way from a stream into the journal, held while the journal is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace

from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import FaceServerError, Overloaded, Unavailable
from face_server.streams.parts import PublishEvents
from face_server.streams.patience import Leftovers, spawn, wait_all

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutgoingOptions:
    """What is held at most: looks with events, and bytes of their pictures."""

    max_looks: int = 1_000
    max_picture_bytes: int = 8 * 1024 * 1024


class Outgoing:
    """A queue between the analysis of a stream and the journal: in order, bounded, tried again.

    Beyond the bytes, events go without their pictures; beyond the number, the oldest are lost and
    the log says so. A task exists only while something waits.
    """

    def __init__(self, stream_id: str, publish: PublishEvents, clock: Clock, options: OutgoingOptions) -> None:
        self._stream_id = stream_id
        self._publish = publish
        self._clock = clock
        self._options = options
        self._waiting: deque[tuple[StreamSpec, Look]] = deque()
        self._picture_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self.trouble = ""
        """Why events wait; empty while they do not."""

    @property
    def waiting(self) -> int:
        """How many looks have not been stored yet."""
        return len(self._waiting)

    def put(self, spec: StreamSpec, look: Look) -> None:
        """Store the events of ``look`` soon."""
        if not look.events:
            return
        size = _picture_bytes(look)
        if self._picture_bytes + size > self._options.max_picture_bytes:
            _log.warning("stream %s: an event goes without its pictures, because the journal is away", self._stream_id)
            look, size = _without_pictures(look), 0
        if len(self._waiting) >= self._options.max_looks:
            # The first may be on its way right now: the one after it goes.
            lost = self._waiting[1][1]
            del self._waiting[1]
            self._picture_bytes -= _picture_bytes(lost)
            _log.error("stream %s: %d event(s) were lost, because the journal is away", self._stream_id, len(lost.events))
        self._waiting.append((spec, look))
        self._picture_bytes += size
        if self._task is None or self._task.done():
            self._task = spawn(self._deliver(), f"events of {self._stream_id}")

    async def close(self, leftovers: Leftovers, within_s: float) -> None:
        """Give what waits a last chance of ``within_s``."""
        if self._task is not None and not self._task.done() and not await wait_all(self._clock, within_s, [self._task]):
            await leftovers.end([self._task], within_s)
        if self._waiting:
            lost = sum(len(look.events) for _, look in self._waiting)
            _log.error("stream %s: %d event(s) were lost, because the journal is away", self._stream_id, lost)

    async def _deliver(self) -> None:
        pause_s = _FIRST_RETRY_S
        while self._waiting:
            spec, look = self._waiting[0]
            try:
                await self._publish(spec, look)
            except (Unavailable, Overloaded) as error:
                if not self.trouble:
                    _log.warning("stream %s: events wait: %s", self._stream_id, error)
                self.trouble = f"events wait to be stored: {error.message}"
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_RETRY_S)
                continue
            except FaceServerError as error:
                _log.error("stream %s: %d event(s) were refused: %s", self._stream_id, len(look.events), error)
            except Exception:  # noqa: BLE001 - one event that nobody can store must not hold up all others
                _log.exception("stream %s: %d event(s) could not be stored", self._stream_id, len(look.events))
            self._waiting.popleft()
            self._picture_bytes -= _picture_bytes(look)
            self.trouble, pause_s = "", _FIRST_RETRY_S


def _picture_bytes(look: Look) -> int:
    return sum(len(picture.jpeg) for picture in look.pictures)


def _without_pictures(look: Look) -> Look:
    events = tuple(
        replace(event, picture="", frame_picture="", faces=tuple(replace(face, picture="") for face in event.faces))
        for event in look.events
    )
    return replace(look, events=events, pictures=())

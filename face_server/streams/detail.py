"""The second, larger picture of a camera, from which faces are cropped."""

from __future__ import annotations

import logging
import threading
from collections import deque

from face_server.domain.frame import Frame
from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec
from face_server.errors import FaceServerError, SourceFailed
from face_server.streams.parts import StreamParts
from face_server.streams.patience import Leftovers, spawn, wait_any
from face_server.streams.restart import Failure, RestartPolicy
from face_server.streams.status import StreamRecord

_KEPT = 6
_SAME_MOMENT_S = 0.25
_SILENCE_S = 4.5
_TICK_S = 0.5

_log = logging.getLogger(__name__)


class Detail:
    """Keeps a second connection to a camera and finds the large frame of a moment.

    Without it the stream goes on with the small picture. Once its size is known, frames keep that
    size even while it is away, so that tracks keep their pixels.
    """

    def __init__(self, spec: StreamSpec, parts: StreamParts, clock: Clock, record: StreamRecord, policy: RestartPolicy) -> None:
        self._spec = spec
        self._parts = parts
        self._clock = clock
        self._record = record
        self._policy = policy
        self._lock = threading.Lock()
        self._frames: deque[Frame] = deque(maxlen=_KEPT)
        self._last_at = clock.monotonic()
        self._size: tuple[int, int] | None = None

    def take(self, frame: Frame) -> None:
        """A large frame; called in the thread of its source."""
        with self._lock:
            self._frames.append(frame)
            self._last_at = self._clock.monotonic()
            self._size = (frame.width, frame.height)

    def join(self, frame: Frame) -> Frame:
        """``frame`` with the large picture of its moment."""
        with self._lock:
            if self._size is None or self._size[0] <= frame.width:
                return frame
            width, height = self._size
            near = min(self._frames, key=lambda other: abs(other.captured_at - frame.captured_at), default=None)
        if near is not None and (
            (near.width, near.height) != (width, height) or abs(near.captured_at - frame.captured_at) > _SAME_MOMENT_S
        ):
            near = None
        return frame.with_detail(width, height, near)

    async def run(self, leftovers: Leftovers) -> None:
        """Connect again and again until cancelled. Its failures are no one else's."""
        while True:
            try:
                await self._connect(leftovers)
            except FaceServerError as error:
                failure = Failure.OPERATOR if isinstance(error, SourceFailed) and error.needs_operator else Failure.LOST
                self._record.error(f"detail picture: {error.message}")
            except Exception:  # noqa: BLE001 - a bug here must not end the stream, which does without
                _log.exception("stream %s: the detail picture failed", self._record.id)
                failure = Failure.OPERATOR
            else:
                failure = Failure.LOST
            with self._lock:
                self._frames.clear()
                away_s = self._clock.monotonic() - self._last_at
            await self._clock.sleep(self._policy.delay_s(failure, away_s=away_s))

    async def _connect(self, leftovers: Leftovers) -> None:
        source = self._parts.open_source(self._spec.detail_url, self._spec)
        ended = None
        try:
            await source.open(self.take)
            began_at = self._last_at = self._clock.monotonic()
            ended = spawn(source.ended(), f"detail source of {self._record.id}")
            while not await wait_any(self._clock, _TICK_S, [ended]):
                now = self._clock.monotonic()
                if now - self._last_at > _SILENCE_S:
                    return
                if now - began_at > self._policy.options.healthy_s:
                    self._policy.healthy()
            ended.result()
        finally:
            await leftovers.end([ended] if ended else [], 1.0, closing=[source.close()])

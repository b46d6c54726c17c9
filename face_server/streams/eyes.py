"""The watcher of a stream with manners: one call at a time, and what its failures mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from face_server.domain.frame import Frame
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import Watcher
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import FaceServerError
from face_server.streams.status import StreamRecord

_FIRST_PAUSE_S = 0.2
_LAST_PAUSE_S = 5.0

Seen = Callable[[Look, Frame | None], None]
"""What came of a frame, or of the passing of time (None)."""

_log = logging.getLogger(__name__)


class Eyes:
    """Looks at frames for as long as the source stays the same, through all reconnects.

    What the analysis says in words (a network is away, the queue is full, a collection is gone) is
    the stream's trouble but no reason to leave the camera: it pauses and looks at the next frame.
    Anything else is a bug and goes to the caller.
    """

    def __init__(self, watcher: Watcher, record: StreamRecord, clock: Clock, seen: Seen) -> None:
        self._watcher = watcher
        self._record = record
        self._clock = clock
        self._seen = seen
        self._turn = asyncio.Lock()
        self._pause_s = _FIRST_PAUSE_S
        self._began_at: float | None = None
        self._looked_at = clock.monotonic()
        self._resting = False
        self.bugs = 0
        """Unexpected errors since the last frame that was looked at."""

    @property
    def stuck(self) -> bool:
        """Whether a call is going on: after its caller was ended, it never will be over."""
        return self._turn.locked()

    @property
    def looking_s(self) -> float:
        """For how long the current frame has been looked at; 0 between frames."""
        return 0.0 if self._began_at is None else self._clock.monotonic() - self._began_at

    @property
    def idle_s(self) -> float:
        """Seconds since a frame was looked at."""
        return 0.0 if self._began_at is not None else self._clock.monotonic() - self._looked_at

    def change(self, spec: StreamSpec) -> None:
        """Watch under other rules from the next frame on."""
        self._watcher.change(spec)

    async def look(self, frame: Frame) -> None:
        """Analyse one frame. Returns after a pause where that failed for a known reason."""
        self._began_at = self._clock.monotonic()
        try:
            async with self._turn:
                look = await self._watcher.look(frame)
        except FaceServerError as error:
            self._began_at = None
            await self._suffer(error)
            return
        except Exception:
            self.bugs += 1
            raise
        finally:
            self._began_at = None
            self._looked_at = self._clock.monotonic()
        self.bugs, self._pause_s, self._record.trouble = 0, _FIRST_PAUSE_S, ""
        self._resting = False
        self._record.analyse(frame.captured_at)
        self._seen(look, frame)

    def rest(self, frame: Frame) -> None:
        """A frame that is not to be looked at: nobody is in view."""
        if not self._resting:
            self._resting = True
            self._seen(Look(), frame)

    @property
    def problem(self) -> str:
        """Why not everybody is recognised at the moment, or empty."""
        return self._watcher.problem

    def leave(self) -> None:
        """Nobody looks any more: whoever was in view has left. What is known stays known."""
        self._seen(self._watcher.leave(), None)

    async def pass_time(self) -> None:
        """Let the watcher notice who left, unless a frame is being looked at."""
        if self._turn.locked():
            return
        try:
            async with self._turn:
                look = await self._watcher.pass_time()
        except FaceServerError as error:
            self._record.error(error.message)
            return
        self._seen(look, None)

    async def _suffer(self, error: FaceServerError) -> None:
        trouble = f"frames are not analysed: {error.message}"
        if self._record.trouble != trouble:
            _log.warning("stream %s: %s", self._record.id, trouble)
        self._record.trouble = trouble
        self._record.error(error.message)
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)

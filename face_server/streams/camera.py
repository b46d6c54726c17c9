"""One connection to a camera: frames in, looks out, and a watchdog that believes no library's timeout."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import TakeFrame
from face_server.domain.streams import StreamSpec, StreamState
from face_server.errors import SourceFailed, Unavailable
from face_server.streams.detail import Detail
from face_server.streams.eyes import Eyes
from face_server.streams.parts import StreamParts
from face_server.streams.patience import Leftovers, spawn, wait_any
from face_server.streams.slot import FrameSlot
from face_server.streams.status import StreamRecord
from face_server.workers import live_work


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """Patience with one connection, in seconds.

    A source that does not open within ``open_s`` is given up, whatever its own timeout. Without a
    frame for ``stalled_s`` the stream is stalled, for ``lost_s`` the connection has failed. A look at
    one frame may take ``look_s``. Everything has ``close_s`` to end.
    """

    open_s: float = 10.0
    stalled_s: float = 2.0
    lost_s: float = 4.5
    look_s: float = 30.0
    close_s: float = 1.3


_TICK_S = 0.25


class Camera:
    """Runs one connection from ``open`` to its end. Made for one use."""

    def __init__(
        self,
        spec: StreamSpec,
        parts: StreamParts,
        clock: Clock,
        options: CameraOptions,
        *,
        eyes: Eyes,
        record: StreamRecord,
        tap: TakeFrame,
        detail: Detail | None,
        leftovers: Leftovers,
    ) -> None:
        self._spec = spec
        self._parts = parts
        self._clock = clock
        self._options = options
        self._eyes = eyes
        self._record = record
        self._detail = detail
        self._leftovers = leftovers
        self._slot = FrameSlot(spec.rules, clock, record.frames, tap)
        self._stalled_s = options.stalled_s
        self._decoded_before = record.frames.decoded
        self.was_open = False
        """Whether the connection could be made."""

    def change(self, spec: StreamSpec) -> None:
        """Choose frames by other rules from now on."""
        self._spec = spec
        self._slot.change(spec.rules)

    async def run(self) -> None:
        """Analyse until the end of a file, for which it returns; a connection that fails raises.

        Raises SourceFailed, or whatever opening the source or looking at a frame raised. However it
        ends, the source is closed or cut off within ``close_s``.
        """
        source = self._parts.open_source(self._spec.url, self._spec)
        tasks: list[asyncio.Task[Any]] = []
        try:
            opening = spawn(source.open(self._slot.take), f"opening {self._record.id}")
            tasks.append(opening)
            info = await self._opened(opening)
            ended = spawn(source.ended(), f"source of {self._record.id}")
            looking = spawn(self._look(), f"looking at {self._record.id}")
            guard = spawn(self._guard(), f"watchdog of {self._record.id}")
            tasks += [ended, looking, guard]
            if self._detail is not None:
                tasks.append(spawn(self._detail.run(self._leftovers), f"detail of {self._record.id}"))
            await asyncio.wait({ended, looking, guard}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not ended.exception() and not info.live:
                # What was read of a file is still analysed.
                self._slot.finish()
                await asyncio.wait({looking, guard}, return_when=asyncio.FIRST_COMPLETED)
            for task in (looking, guard, ended):
                if task.done():
                    task.result()
            if info.live:
                raise SourceFailed("the camera ended the connection", code="source_lost")
        finally:
            self._slot.close()
            await self._leftovers.end(tasks, self._options.close_s, closing=[source.close()])

    async def _opened(self, opening: asyncio.Task[SourceInfo]) -> SourceInfo:
        if not await wait_any(self._clock, self._options.open_s, [opening]):
            raise SourceFailed(f"the source did not open within {self._options.open_s:g} s", code="source_timeout")
        info = opening.result()
        if info.fps > 0:
            # A camera that sends a frame every two seconds does not stall in between.
            self._stalled_s = max(self._options.stalled_s, min(3.0 / info.fps, self._options.lost_s))
        self.was_open = True
        self._record.connect(info)
        self._slot.begin(live=info.live)
        return info

    async def _look(self) -> None:
        live_work.set(True)
        # A call of its own for each frame: none is held while the next is waited for, nor by what broke the wait off.
        while await self._look_at_next():
            pass

    async def _look_at_next(self) -> bool:
        """Look at one frame; False at the end."""
        frame = await self._slot.next()
        if frame is None:
            return False
        schedule = self._spec.rules.schedule
        if schedule is not None and not schedule.covers(self._clock.now()):
            self._record.trouble = "it is outside of the schedule"
            self._eyes.rest(frame)
        else:
            await self._eyes.look(self._joined(frame))
        return True

    def _joined(self, frame: Frame) -> Frame:
        return frame if self._detail is None else self._detail.join(frame)

    async def _guard(self) -> None:
        options, record = self._options, self._record
        while True:
            silence_s = self._slot.silence_s()
            if silence_s >= options.lost_s:
                raise SourceFailed(f"no frame came for {options.lost_s:g} s", code="source_timeout")
            if silence_s >= self._stalled_s:
                record.frames.interrupted()
                record.enter(StreamState.STALLED, f"connected, but no frame for {self._stalled_s:g} s", "source_stalled")
            elif record.frames.decoded > self._decoded_before:
                record.enter(StreamState.RUNNING)
            if self._eyes.looking_s >= options.look_s:
                raise Unavailable(f"the analysis of a frame took more than {options.look_s:g} s", code="analysis_stuck")
            await self._clock.sleep(_TICK_S)

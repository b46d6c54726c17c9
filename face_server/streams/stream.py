"""One supervised stream: an owner that keeps it connected, and what outlives its connections."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass, field

from face_server.domain.events import Event, EventKind
from face_server.domain.frame import Frame
from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec, StreamState, StreamStatus
from face_server.domain.tracks import Look
from face_server.errors import ConfigurationError, FaceServerError, InvalidInput, SourceFailed
from face_server.pipeline.enrollment import new_id
from face_server.streams.camera import Camera, CameraOptions
from face_server.streams.detail import Detail
from face_server.streams.eyes import Eyes
from face_server.streams.outgoing import Outgoing, OutgoingOptions
from face_server.streams.parts import StreamParts
from face_server.streams.patience import Leftovers, spawn, wait_any
from face_server.streams.presence import Presence
from face_server.streams.publishing import Publishing
from face_server.streams.restart import Failure, RestartOptions, RestartPolicy
from face_server.streams.status import StreamRecord
from face_server.streams.viewing import Seats, Viewing, ViewingOptions

_BEAT_S = 0.5
_IDLE_S = 1.0
_STOP_S = 1.8
_CONNECTION_S = 1.5
_DRAIN_S = 0.5
_BEAT_END_S = 0.2
_MAX_BUGS = 3
_MAX_LEFTOVERS = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How every stream is run."""

    camera: CameraOptions = field(default_factory=CameraOptions)
    restart: RestartOptions = field(default_factory=RestartOptions)
    viewing: ViewingOptions = field(default_factory=ViewingOptions)
    outgoing: OutgoingOptions = field(default_factory=OutgoingOptions)


class SupervisedStream:
    """Keeps one stream going until it is stopped.

    While it should run there is exactly one owner task; connections come and go under it. Eyes,
    viewers, the published view and events that wait outlive connections. Commands follow one another.
    """

    def __init__(
        self, spec: StreamSpec, parts: StreamParts, clock: Clock, options: StreamOptions, seats: Seats, chance: random.Random
    ) -> None:
        self.spec = spec
        self._parts = parts
        self._clock = clock
        self._options = options
        self._chance = chance
        self._record = StreamRecord(spec.id, clock)
        self._leftovers = Leftovers(clock, spec.id)
        self._policy = RestartPolicy(options.restart, chance)
        self._presence = Presence()
        self._publishing = Publishing(parts.open_view, self._leftovers)
        self._outgoing = Outgoing(spec.id, parts.publish_events, clock, options.outgoing)
        self.viewing = Viewing(spec.name or spec.id, parts, clock, self._record.frames, seats, options.viewing)
        self._eyes: Eyes | None = None
        self._other_source = False
        self._was_lost = parts.was_lost
        self._camera: Camera | None = None
        self._owner: asyncio.Task[None] | None = None
        self._quiet_since = clock.now()
        self._again = asyncio.Event()
        self._turn = asyncio.Lock()
        self._starting = 0
        self._closed = False

    @property
    def active(self) -> bool:
        """Whether it has an owner or is about to: it runs, or tries to."""
        return self._starting > 0 or self._runs

    @property
    def _runs(self) -> bool:
        return self._owner is not None and not self._owner.done()

    def status(self) -> StreamStatus:
        """The stream right now."""
        return self._record.status(
            attempts=self._policy.attempts,
            waiting=self._outgoing.trouble,
            publishing=self._publishing.state,
            viewers=self.viewing.viewers,
            problem=self._eyes.problem if self._eyes is not None else "",
        )

    def start(self, spec: StreamSpec) -> asyncio.Task[bool]:
        """Run under ``spec``, or go on under it. Tracks and the connection go on unless the source changed.

        Active from here on. The task says whether it worked: a stream that was closed does not start again.
        """
        self._starting += 1
        return spawn(self._start(spec), f"starting {spec.id}")

    async def _start(self, spec: StreamSpec) -> bool:
        try:
            async with self._turn:
                if self._closed:
                    return False
                self._adopt(spec)
        finally:
            self._starting -= 1
        await self._publishing.settle()
        return True

    def _adopt(self, spec: StreamSpec) -> None:
        before, self.spec = self.spec, spec
        self.viewing.title = spec.name or spec.id
        self._publishing.want(spec)
        if not spec.same_source(before):
            self._other_source = True
            self._policy.healthy()
            self._again.set()
        else:
            if self._eyes is not None:
                self._eyes.change(spec)
            if self._camera is not None:
                self._camera.change(spec)
        if not self._runs:
            self._begin()
        elif self._record.state is StreamState.STOPPED:
            # A file came to its end a moment ago.
            self._again.set()

    async def stop(self) -> None:
        """Let go of the camera within 2 s, whatever hangs. Whoever was in view has left; what was seen stays known."""
        async with self._turn:
            await self._stop()

    async def close(self) -> None:
        """Stop for good, end every preview, and give events that wait a last chance."""
        self.viewing.close()
        async with self._turn:
            self._closed = True
            await self._stop()
        await self._outgoing.close(self._leftovers, _DRAIN_S)

    async def _stop(self) -> None:
        await self._leftovers.end([self._owner] if self._owner else [], _STOP_S, closing=[self._publishing.close()])
        self._owner = None
        self._leave()
        self._record.enter(StreamState.STOPPED)

    async def restart(self) -> bool:
        """Connect anew at once. False for a stream that was closed."""
        async with self._turn:
            if self._closed:
                return False
            if self._runs:
                self._again.set()
            else:
                self._begin()
            return True

    def _begin(self) -> None:
        self._policy.healthy()
        self._again.clear()
        self._record.enter(StreamState.STARTING)
        self._owner = spawn(self._own(), f"stream {self.spec.id}")

    async def _own(self) -> None:
        beat = spawn(self._beat(), f"heart of {self.spec.id}")
        try:
            while True:
                wait_s = await self._connect()
                if wait_s > 0:
                    await self._unless_again(wait_s)
                elif self._record.state is StreamState.STOPPED and not await self._unless_again(self.spec.rules.absence_s + 2 * _IDLE_S):
                    return
        finally:
            self._presence.rest()
            await self._leftovers.end([beat], _BEAT_END_S)

    async def _connect(self) -> float:
        """One connection, from its beginning to its end. Returns how long to wait before the next; 0 if not at all.

        At the end of a file it leaves the stream as stopped.
        """
        self._again.clear()
        # Until it works, the reason why the last attempt did not is still worth reading.
        self._record.enter(StreamState.STARTING, self._record.reason, self._record.code)
        connection: asyncio.Task[None] | None = None
        try:
            self._camera = self._make_camera()
            connection = spawn(self._camera.run(), f"connection of {self.spec.id}")
            if await self._ended(connection):
                self._record.enter(StreamState.STOPPED, "the file came to its end", "source_ended")
            else:
                self._policy.healthy()
        except Exception as error:  # noqa: BLE001 - one stream's bug must neither end its supervision nor touch the others
            return self._failed(error)
        finally:
            if connection is not None:
                # Also where it ended in the moment in which the stream was stopped: its error has nobody left to tell.
                await self._leftovers.end([connection], _CONNECTION_S)
            self._camera = None
            self._record.disconnect()
            self.viewing.clear()
        return 0.0

    def _make_camera(self) -> Camera:
        if self._leftovers.running >= _MAX_LEFTOVERS:
            message = f"{self._leftovers.running} parts of earlier connections do not end; the service must be started anew"
            raise SourceFailed(message, code="source_stuck", needs_operator=True)
        spec, record = self.spec, self._record
        eyes = self._eyes
        if eyes is None or self._other_source or eyes.stuck or eyes.bugs >= _MAX_BUGS:
            self._leave()
            eyes = self._eyes = Eyes(self._parts.open_watcher(spec), record, self._clock, self._saw)
            self._other_source = False
        detail = None
        if spec.detail_url:
            detail = Detail(spec, self._parts, self._clock, record, RestartPolicy(self._options.restart, self._chance))
        return Camera(
            spec,
            self._parts,
            self._clock,
            self._options.camera,
            eyes=eyes,
            record=record,
            tap=self._tap,
            detail=detail,
            leftovers=self._leftovers,
        )

    async def _ended(self, connection: asyncio.Task[None]) -> bool:
        """Wait for its end, and raise what it raised; False when a restart is wanted before."""
        again = spawn(self._again.wait(), "restart")
        try:
            await asyncio.wait({connection, again}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            again.cancel()
        if connection.cancelled():
            # Nobody here did that: without this it would look as if the stream itself were to end.
            raise SourceFailed("the source gave itself up", code="source_lost")
        return connection.done() and connection.result() is None

    async def _unless_again(self, seconds: float) -> bool:
        """Wait; True as soon as a restart is wanted."""
        again = spawn(self._again.wait(), "restart")
        try:
            return await wait_any(self._clock, seconds, [again])
        finally:
            again.cancel()

    def _failed(self, error: Exception) -> float:
        """Note why a connection ended. Returns how long to wait before the next."""
        record, state = self._record, StreamState.BACKING_OFF
        failure = Failure.LOST if self._camera is not None and self._camera.was_open else Failure.UNREACHABLE
        if isinstance(error, FaceServerError):
            message, code = error.message, error.code
            if isinstance(error, (InvalidInput, ConfigurationError)) or (isinstance(error, SourceFailed) and error.needs_operator):
                failure, state = Failure.OPERATOR, StreamState.FAILED
        else:
            log_id = secrets.token_hex(4)
            message, code, failure = f"internal error, see log {log_id}", "internal_error", Failure.LOST
            _log.error("internal error %s in stream %s", log_id, record.id, exc_info=error)
        wait_s = self._policy.delay_s(failure, away_s=record.frames.away_s)
        if (state, code) != (record.state, record.code) and self._policy.attempts == 1:
            _log.warning("stream %s: %s (%s)", record.id, message, code)
        record.error(message)
        record.enter(state, message, code)
        return wait_s

    async def _beat(self) -> None:
        """What goes on whether or not there is a connection: time, and whether the camera is there."""
        passing: asyncio.Task[None] | None = None
        try:
            await self._recall()
            while True:
                frames = self._record.frames
                if frames.flowing_s >= self._options.restart.healthy_s:
                    self._policy.healthy()
                if kind := self._presence.tick(frames):
                    self._outgoing.put(self.spec, Look(events=(self._event(kind),)))
                eyes = self._eyes
                if eyes is not None and eyes.idle_s >= _IDLE_S and (passing is None or passing.done()):
                    passing = spawn(self._pass_time(eyes), f"time of {self.spec.id}")
                await self._clock.sleep(_BEAT_S)
        finally:
            if passing is not None and not passing.done():
                passing.cancel()

    async def _recall(self) -> None:
        """Learn once whether the stream was lost when the service ended. Whoever cannot say is not waited for."""
        was_lost, self._was_lost = self._was_lost, None
        if was_lost is None:
            return
        try:
            if await was_lost(self.spec.id):
                self._presence.recall_loss()
        except FaceServerError as error:
            _log.warning("stream %s: its return may stay unsaid: %s", self.spec.id, error)

    async def _pass_time(self, eyes: Eyes) -> None:
        try:
            await eyes.pass_time()
        except Exception:  # noqa: BLE001 - a bug here must not end the supervision of the stream
            self._note_bug()

    def _leave(self) -> None:
        """Whoever was in view is not any more, for nobody looks."""
        try:
            if self._eyes is not None:
                self._eyes.leave()
        except Exception:  # noqa: BLE001 - a bug here must keep a stream neither from stopping nor from going on
            self._note_bug()

    def _note_bug(self) -> None:
        """Log the exception that is being handled."""
        log_id = secrets.token_hex(4)
        _log.exception("internal error %s in stream %s", log_id, self.spec.id)
        self._record.error(f"internal error, see log {log_id}")

    def _tap(self, frame: Frame) -> None:
        self._publishing.take(frame)
        self.viewing.take(frame)

    def _saw(self, look: Look, frame: Frame | None) -> None:
        self._outgoing.put(self.spec, look)
        if frame is not None:
            self._publishing.show(look.tracks, frame)
            self.viewing.show(look.tracks, frame)

    def _event(self, kind: EventKind) -> Event:
        now, record, name = self._clock.now(), self._record, self.spec.name or self.spec.id
        if kind is EventKind.STREAM_LOST:
            self._quiet_since = record.frames.last_taken_at or now
            message = f"{name} gives no more pictures{': ' if record.reason else ''}{record.reason}"
        else:
            message = f"{name} gives pictures again"
        return Event(new_id(), kind, self.spec.id, now, self._quiet_since, now, message=message)

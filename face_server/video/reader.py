"""The thread that reads one source, and the books about threads that would not end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import TakeFrame
from face_server.errors import Unavailable
from face_server.video.source_clock import Timing

T = TypeVar("T")

_READERS: set[Reader] = set()
_READERS_LOCK = threading.Lock()


def abandoned_readers() -> int:
    """How many reading threads of this process were let go but have not ended yet."""
    with _READERS_LOCK:
        return sum(reader.released for reader in _READERS)


def start_reader(reader: Reader, *, max_abandoned: int) -> None:
    """Start a reader, unless ``max_abandoned`` threads still hang in dead connections (Unavailable)."""
    if abandoned_readers() >= max_abandoned:
        raise Unavailable(
            f"{max_abandoned} connections to cameras that were given up have not ended yet; no new one is opened until one does"
        )
    with _READERS_LOCK:
        _READERS.add(reader)
    reader.start()


class Decoded(NamedTuple):
    """A decoded picture. ``skipped`` is how many coded pictures before it were thrown away unseen."""

    size: tuple[int, int]
    convert: Callable[[int, int], Pixels]
    media_s: float | None
    prompt: bool
    skipped: int


@dataclass(slots=True)
class Progress:
    """What the reading thread is at; written by it alone, read by the watchdog.

    ``blocked_since`` is when it entered the library (None while it is outside), ``picture_at`` when
    there was last a sound picture or a good reason for having none. Both ``Clock.monotonic``.
    """

    blocked_since: float | None = None
    picture_at: float = 0.0


class Connection(Protocol):
    """The blocking side of a source. Used by one thread only; raises SourceFailed only."""

    def open(self) -> SourceInfo:
        """Connect. A width of 0 says that the size is not known before the first picture."""
        ...

    def timing(self) -> Timing:
        """What tells the time of its pictures."""
        ...

    def pictures(self, progress: Progress, behind: Callable[[float | None], bool]) -> Iterator[Decoded]:
        """Decode until the end. ``behind(media_s)`` says whether data with that time stamp should be skipped."""
        ...

    def close(self) -> None:
        """Let go. May hang for as long as the library likes."""
        ...


def _let_go(error: BaseException | None) -> None:
    """Empty the frames behind an error: they hold the decoder and its pictures, tens of MB, until garbage is collected some day."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Reader(threading.Thread):
    """Reads a connection in a daemon thread of its own and hands its pictures over until released.

    ``opened`` is done with the SourceInfo, ``outcome`` with None at the end of a recording and with
    the error otherwise, ``gone`` when the thread has let go of everything. All are futures of the
    loop in which the reader was made.
    """

    def __init__(self, connection: Connection, clock: Clock, take: TakeFrame, *, staleness_s: float) -> None:
        super().__init__(name="camera", daemon=True)
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[SourceInfo] = loop.create_future()
        self.outcome: asyncio.Future[Exception | None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.progress = Progress(clock.monotonic(), clock.monotonic())
        self._loop = loop
        self._connection = connection
        self._clock = clock
        self._take: TakeFrame | None = take
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._staleness_s = staleness_s
        self._behind_since: float | None = None

    @property
    def released(self) -> bool:
        """Whether nobody wants its pictures any more."""
        return self._released.is_set()

    def release(self) -> None:
        """From now on hand over nothing and hold nothing of whoever took. Returns at once."""
        with self._lock:
            self._take = None
        self._released.set()

    def run(self) -> None:
        """The thread: connect, decode, let go."""
        try:
            error = self._read()
            _let_go(error)
            self._tell(self.outcome, error)
            del error
            self._connection.close()
        finally:
            with _READERS_LOCK:
                _READERS.discard(self)
            self._tell(self.gone, None)

    def _read(self) -> Exception | None:
        try:
            if self.released:
                return None
            info = self._connection.open()
            self.progress.picture_at = self._clock.monotonic()
            if info.width:
                self._tell(self.opened, info)
            timing = self._connection.timing()
            number, first_s, position_s = 0, None, 0.0
            for picture in self._connection.pictures(self.progress, lambda media_s: self._behind(timing, media_s)):
                self.progress.blocked_since = None
                if not info.width:
                    info = replace(info, width=picture.size[0], height=picture.size[1])
                    self._tell(self.opened, info)
                number += picture.skipped
                if picture.media_s is not None:
                    first_s = picture.media_s if first_s is None else first_s
                    position_s = max(0.0, picture.media_s - first_s)
                if not self._hand_over(self._frame(picture, timing, number, position_s)):
                    return None
                number += 1
                self.progress.picture_at = self.progress.blocked_since = self._clock.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever ended the thread belongs to the one who waits for its end
            return error
        return None

    def _frame(self, picture: Decoded, timing: Timing, number: int, position_s: float) -> Frame:
        now = self._clock.monotonic()
        captured_at = timing.captured_at(picture.media_s, now, prompt=picture.prompt)
        if captured_at > now:
            self._released.wait(captured_at - now)
        if picture.prompt or now - captured_at <= self._staleness_s:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        taken_at = self._clock.now() - max(0.0, now - captured_at)
        return Frame(number, picture.size, picture.convert, captured_at=captured_at, taken_at=taken_at, position_s=position_s)

    def _behind(self, timing: Timing, media_s: float | None) -> bool:
        """Whether decoding everything has failed to catch up: a burst is decoded, an overload is skipped."""
        now = self._clock.monotonic()
        if self._behind_since is None or now - self._behind_since < self._staleness_s:
            return False
        return timing.age(media_s, now) > self._staleness_s

    def _hand_over(self, frame: Frame) -> bool:
        with self._lock:
            take = self._take
        if take is None:
            return False
        take(frame)
        return not self.released

    def _tell(self, future: asyncio.Future[T], result: T) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(result)

        # A loop that was closed meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(settle)

"""An ffmpeg of our own: raw pictures in, a watched child process that never outlives its owner."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import select
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import imageio_ffmpeg  # type: ignore[import-untyped]  # ships no types

from face_server.domain.ports import Clock
from face_server.errors import ConfigurationError, Unavailable

_PIPE_BYTES = 1 << 20
"""A full HD picture passes in 3 pieces instead of 48."""

_POLL_MS = 50
_TAIL_LINES = 20
_LINE_CHARS = 300
_URL = re.compile(r"[a-z][a-z0-9+]{2,8}://[^\s'\"]+", re.IGNORECASE)


def find_ffmpeg(configured: Path | None = None) -> Path:
    """The ffmpeg to run: the configured one, else that on PATH, else the one of the imageio-ffmpeg wheel.

    Raises ConfigurationError where there is none.
    """
    if configured is not None:
        if shutil.which(configured) is None:
            raise ConfigurationError(f"{configured} is no program that can be run as ffmpeg")
        return configured
    on_path = shutil.which("ffmpeg")
    if on_path is not None:
        return Path(on_path)
    try:
        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise ConfigurationError("there is no ffmpeg on this machine: install one, or the imageio-ffmpeg wheel of this platform") from error


class FfmpegProcess:
    """A running ffmpeg that reads raw video from its standard input. For one thread.

    ``arguments`` are those between the global options and the end of the command line; their input
    is ``pipe:0``. ``secrets`` never appear in ``tail``, nor does any URL. The process ends when
    ``end`` is called, when its standard input closes because this process died, and, where
    util-linux is installed, when the thread that started it ends in any way.
    Raises Unavailable where it cannot be started.
    """

    def __init__(self, binary: Path, arguments: Sequence[str], clock: Clock, *, secrets: Sequence[str] = ()) -> None:
        self._clock = clock
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._rest = {"out": "", "err": ""}
        self.frames = 0
        self.progressed_at = clock.monotonic()
        command = [*_bound_to_parent(), str(binary), "-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning"]
        command += ["-stats_period", "0.5", "-progress", "pipe:1", *arguments]
        try:
            # A session of its own: Ctrl+C in a terminal is for the service, which ends its children in order.
            self._process = subprocess.Popen(  # noqa: S603 - a program the operator chose, arguments without a shell
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True
            )
        except OSError as error:
            raise Unavailable(f"ffmpeg cannot be started: {error.strerror}", code="publish_ended") from error
        self._input, self._output, self._errors = (
            _unblocked(stream) for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        with contextlib.suppress(OSError):
            # The user may have used up the memory for pipes: then it stays small and slower.
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines it complained with, without URLs and secrets."""
        return tuple(self._lines)

    def write(self, data: memoryview, *, stall_s: float, keep_on: Callable[[], bool]) -> bool:
        """Hand over all of ``data``; True when it is taken, False when ``keep_on`` said no meanwhile.

        Raises Unavailable: code publish_stalled when not one byte was taken for ``stall_s``,
        publish_ended when the process is gone.
        """
        rest = data.cast("B")
        moved_at = self._clock.monotonic()
        room = select.poll()
        room.register(self._input, select.POLLOUT)
        while rest:
            try:
                rest = rest[os.write(self._input.fileno(), rest) :]
                moved_at = self._clock.monotonic()
            except BlockingIOError:
                if not keep_on():
                    return False
                if self._clock.monotonic() - moved_at > stall_s:
                    raise Unavailable("ffmpeg takes no more pictures", code="publish_stalled") from None
                room.poll(_POLL_MS)
                self.listen()
            except BrokenPipeError:
                self.listen()
                raise Unavailable("ffmpeg has ended", code="publish_ended") from None
        return True

    def listen(self) -> None:
        """Read what it has said: ``frames`` (sent out so far), ``progressed_at`` and ``tail`` follow. Never waits."""
        for line in self._read(self._output, "out"):
            key, _, value = line.partition("=")
            if key == "frame" and value.strip().isdigit() and int(value) > self.frames:
                self.frames = int(value)
                self.progressed_at = self._clock.monotonic()
        self._lines.extend(self._redacted(line) for line in self._read(self._errors, "err"))

    def end(self, *, grace_s: float = 0.4) -> None:
        """Close its input, then SIGTERM, then SIGKILL, ``grace_s`` apart; within three times of it. Idempotent."""
        with contextlib.suppress(OSError):
            self._input.close()
        for act in (None, self._process.terminate, self._process.kill):
            if act is not None:
                act()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
                break
        if not self._output.closed:
            self.listen()
        self._output.close()
        self._errors.close()

    def _read(self, stream: IO[bytes], name: str) -> list[str]:
        """The lines that are complete by now; after the end of the stream also the last, incomplete one."""
        text, ended = self._rest[name], False
        for _ in range(16):
            try:
                chunk = os.read(stream.fileno(), 4096)
            except BlockingIOError:
                break
            if not chunk:
                ended = True
                break
            text += chunk.decode(errors="replace")
        *lines, rest = re.split(r"[\r\n]+", text)
        self._rest[name] = "" if ended else rest[-_LINE_CHARS:]
        return [line for line in ([*lines, rest] if ended else lines) if line]

    def _redacted(self, line: str) -> str:
        line = _URL.sub("***", line)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line[:_LINE_CHARS]


def _unblocked(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    return stream


@functools.cache
def _bound_to_parent() -> tuple[str, ...]:
    """What to put before a command so that the kernel kills it together with the thread that started it."""
    program = shutil.which("setpriv")
    true = shutil.which("true")
    if program is None or true is None:
        return ()
    prefix = (program, "--pdeathsig", "KILL")
    # Busybox has a program of this name that knows other options.
    tried = subprocess.run([*prefix, true], capture_output=True, check=False, timeout=5)  # noqa: S603 - fixed arguments
    return prefix if tried.returncode == 0 else ()

"""Camera stand-ins: RTSP servers on loopback that play video files for ever and can be made to fail.

They need Debian's GStreamer RTSP server and its own Python:
``apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-libav``.
"""

from __future__ import annotations

import functools
import signal
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

_PYTHON = "/usr/bin/python3"
_SCRIPT = Path(__file__).resolve().parent.parent / "tests" / "cameras" / "rtsp_server.py"
_START_S = 60.0


@functools.cache
def missing() -> str:
    """What this machine lacks to run camera stand-ins; empty if nothing."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        done = subprocess.run([_PYTHON, "-c", check], capture_output=True, timeout=_START_S, check=False)
    except FileNotFoundError:
        return f"there is no {_PYTHON}"
    return "" if done.returncode == 0 else "python3-gi and gir1.2-gst-rtsp-server-1.0 are not installed"


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """How a stand-in plays its file.

    Without ``size``, ``fps`` and with codec ``h264`` the H.264 of an mp4 is served as it is; else
    the file is encoded anew once, at start, with a keyframe every ``gop`` frames. With several
    ``sizes`` every loop has the next one. ``garble_after_s`` turns pictures to noise from then on.
    """

    sizes: tuple[str, ...] = ()
    fps: int = 0
    codec: str = "h264"
    gop: int = 25
    user: str = ""
    password: str = ""
    path: str = "/camera"
    garble_after_s: float | None = None
    no_keyframes: bool = False

    def arguments(self) -> list[str]:
        """The same as arguments of the server script."""
        line = ["--codec", self.codec, "--gop", str(self.gop), "--path", self.path]
        line += ["--user", self.user, "--password", self.password, "--fps", str(self.fps)]
        for size in self.sizes:
            line += ["--size", size]
        if self.garble_after_s is not None:
            line += ["--garble-after", str(self.garble_after_s)]
        return [*line, "--no-keyframes"] if self.no_keyframes else line


@dataclass
class CameraStandIn:
    """One camera. It keeps its port over restarts. Every method blocks until it is done."""

    file: Path
    options: CameraOptions = field(default_factory=CameraOptions)
    port: int = 0
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Its address, with the credentials if it has some."""
        who = f"{self.options.user}:{self.options.password}@" if self.options.user else ""
        return f"rtsp://{who}127.0.0.1:{self.port}{self.options.path}"

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._running().pid

    def start(self) -> Self:
        """Read the file and serve it."""
        line = [_PYTHON, str(_SCRIPT), "--file", str(self.file), "--port", str(self.port), *self.options.arguments()]
        self._process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().partition(" ")
        if word != "ready":
            self.kill()
            raise RuntimeError(f"the camera stand-in did not start for {self.file}")
        self.port = int(port)
        return self

    def stop(self) -> None:
        """End politely."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End without a word to anybody."""
        self._end(signal.SIGKILL)

    def restart(self, **changes: Any) -> Self:
        """Start again on the same port with other ``CameraOptions`` (``sizes``, ``password``, ``codec``…)."""
        self.stop()
        self.options = replace(self.options, **changes)
        return self.start()

    def freeze(self) -> None:
        """Stand still with every connection open."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after ``freeze``; what it should have sent meanwhile comes in a burst."""
        self._running().send_signal(signal.SIGCONT)

    def silence(self) -> None:
        """Send no more pictures while still answering."""
        self._running().send_signal(signal.SIGUSR1)

    def speak(self) -> None:
        """Go on after ``silence``; what was held back comes in a burst."""
        self._running().send_signal(signal.SIGUSR2)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the camera stand-in is not running")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        # A frozen process hears SIGTERM only once it goes on.
        process.send_signal(signal.SIGCONT)
        with process:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()

"""What ffmpeg is told, and what it means when it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote, urlsplit

_BITS_PER_PIXEL = 0.08
"""H.264 of a camera at this many bits a pixel shows no blocks."""

_LEAST_KBPS = 500
_KEYFRAME_S = 2.0

_LEAST_BUFFER_BYTES = 32 << 10
_BUFFERED_S = 0.5


@dataclass(frozen=True, slots=True)
class EncodingPlan:
    """Size in pixels (even) and rate of an encoded stream; not ``settled`` while the source's rate is unknown."""

    width: int
    height: int
    fps: float
    settled: bool = True


def publish_arguments(url: str, plan: EncodingPlan, *, preset: str, max_kbps: int, timeout_s: float) -> list[str]:
    """The command line from I420 pictures (BT.601, limited range) on pipe:0 to an H.264 stream at ``url``."""
    kbps = max_kbps or max(_LEAST_KBPS, round(plan.width * plan.height * plan.fps * _BITS_PER_PIXEL / 1000))
    frames = max(1, round(plan.fps * _KEYFRAME_S))
    source = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", f"{plan.width}x{plan.height}", "-framerate", f"{plan.fps:.6f}"]
    source += ["-probesize", "32", "-analyzeduration", "0", "-fflags", "nobuffer", "-i", "pipe:0", "-an"]
    # Players would guess the matrix from the size, so the stream states which one the pictures were made with.
    coding = ["-vf", "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=bt709", "-filter_threads", "1"]
    coding += ["-c:v", "libx264", "-preset", preset, "-tune", "zerolatency", "-pix_fmt", "yuv420p", "-threads", "1"]
    coding += ["-g", str(frames), "-keyint_min", str(frames), "-sc_threshold", "0"]
    coding += ["-crf", "23", "-maxrate", f"{kbps}k", "-bufsize", f"{kbps}k"]
    if urlsplit(url).scheme.startswith("rtsp"):
        return [*source, *coding, "-f", "rtsp", "-rtsp_transport", "tcp", url]
    timeout_us = str(round(timeout_s * 1e6))
    # The kernel would buffer minutes of a quiet picture for a frozen server, which nobody would notice.
    buffer = str(max(_LEAST_BUFFER_BYTES, round(kbps * 125 * _BUFFERED_S)))
    network = ["-rw_timeout", timeout_us, "-send_buffer_size", buffer, "-tcp_nodelay", "1"]
    return [*source, *coding, "-f", "flv", "-flvflags", "no_duration_filesize", *network, url]


def secrets_of(url: str) -> tuple[str, ...]:
    """Every part of a URL that may be a credential or a stream key."""
    parts = urlsplit(url)
    names = [name for name in (*parts.path.split("/"), parts.query) if len(name) > 2]
    known = [url, parts.netloc, parts.username or "", parts.password or "", *names]
    return tuple(dict.fromkeys(text for secret in known if secret for text in (secret, unquote(secret))))


class Ended(Protocol):
    """A process that has ended."""

    @property
    def tail(self) -> tuple[str, ...]:
        """Its last words."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it ended."""
        ...

    frames: int


_REASONS = (
    (("unknown encoder",), "this ffmpeg has no libx264 encoder"),
    (("protocol not found", "requested output format"), "this ffmpeg does not know the protocol"),
    (("failed to resolve", "name or service not known", "temporary failure in name"), "the name of the media server is unknown"),
    (("connection refused",), "the media server refuses connections"),
    (("no route to host", "network is unreachable"), "the media server cannot be reached"),
    (("401", "403", "unauthorized", "forbidden", "authorization", "badname", "already publishing"), "the media server refuses this stream"),
    (("404", "405", "501", "not found", "not implemented"), "the media server does not take this stream"),
    (("timed out", "timeout"), "the media server does not answer"),
    (("broken pipe", "connection reset", "end of file", "input/output error"), "the media server closed the connection"),
)


def reason_of(code: str, process: Ended) -> str:
    """Why publishing ended, in a few words without addresses."""
    if code == "publish_stalled":
        return "the media server takes nothing any more" if process.frames else "the media server does not answer"
    said = "\n".join(process.tail).lower()
    for marks, reason in _REASONS:
        if any(mark in said for mark in marks):
            return reason
    return f"ffmpeg ended with code {process.returncode}"

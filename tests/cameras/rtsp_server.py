"""An RTSP camera that plays a video file for ever; run by Debian's own Python (python3-gi, gir1.2-gst-rtsp-server-1.0).

The file is read into memory once: its H.264 as it is, or encoded anew for another size, rate or
codec. After that a viewer costs about 2 % of a core at 1080p. Time stamps go on over the loops.
Every viewer starts at the beginning of the file, with a keyframe.

Prints ``ready PORT``. SIGUSR1 makes it silent (it answers, but sends no pictures), SIGUSR2 speak again;
SIGSTOP freezes it altogether.
"""

from __future__ import annotations

import argparse
import itertools
import random
import signal
from dataclasses import dataclass

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - versions come first

CAPS = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    "mjpeg": "image/jpeg",
}
ENCODERS = {
    # Slices of threads would reach some readers as pictures of their own.
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast sliced-threads=false threads=1 key-int-max={gop} bitrate={kbit}"
    " ! h264parse config-interval=-1",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} bitrate={kbit} ! h265parse config-interval=-1",
    "mjpeg": "jpegenc quality=80 ! jpegparse",
}
PAYLOADERS = {"h264": "rtph264pay config-interval=-1", "h265": "rtph265pay config-interval=-1", "mjpeg": "jpegparse ! rtpjpegpay"}


@dataclass(frozen=True)
class Unit:
    """One coded picture; times in ns from the start of the file."""

    data: bytes
    pts: int
    dts: int
    duration: int
    keyframe: bool


def read_units(options: argparse.Namespace, size: tuple[int, int] | None) -> list[Unit]:
    """Every coded picture of the file."""
    codec = options.codec
    if codec == "h264" and size is None and not options.fps and options.file.endswith(".mp4"):
        chain = "qtdemux name=demux demux.video_0 ! h264parse config-interval=-1"
    else:
        width, height = size or (0, 0)
        raw = "video/x-raw,format=I420,pixel-aspect-ratio=1/1" + (f",width={width},height={height}" if size else "")
        rate = f"videorate ! video/x-raw,framerate={options.fps}/1 !" if options.fps else ""
        encoder = ENCODERS[codec].format(gop=options.gop, kbit=max(300, (width or 1280) * (height or 720) // 300))
        chain = f"decodebin ! videoconvert ! videoscale add-borders=false ! {raw} ! {rate} {encoder}"
    pipeline = Gst.parse_launch(f'filesrc location="{options.file}" ! {chain} ! {CAPS[codec]} ! appsink name=sink sync=false max-buffers=8')
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    units = []
    while sample := sink.emit("pull-sample"):
        buffer, segment = sample.get_buffer(), sample.get_segment()
        dts = buffer.dts if buffer.dts != Gst.CLOCK_TIME_NONE else buffer.pts
        key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        start = segment.start
        units.append(Unit(buffer.extract_dup(0, buffer.get_size()), buffer.pts - start, dts - start, buffer.duration, key))
    pipeline.set_state(Gst.State.NULL)
    if not units:
        raise SystemExit(f"{options.file} holds no video that can be served as {codec}")
    first = min(unit.pts for unit in units)
    return [Unit(unit.data, unit.pts - first, unit.dts - first, unit.duration, unit.keyframe) for unit in units]


def units_of(data: bytes) -> list[bytes]:
    """The NAL units of an access unit."""
    return [unit for piece in data.split(b"\0\0\1") if (unit := piece.rstrip(b"\0"))]


def garbled(data: bytes) -> bytes:
    """The same NAL units with noise in them; no zeros, so that none ends early."""
    noisy = (unit[:1] + bytes(random.choices(range(1, 256), k=len(unit) - 1)) for unit in units_of(data))
    return b"".join(b"\0\0\0\1" + unit for unit in noisy)


def without_keyframe(data: bytes) -> bytes:
    """An H.264 access unit without its IDR slices; the parameter sets stay."""
    return b"".join(b"\0\0\0\1" + unit for unit in units_of(data) if unit[0] & 0x1F != 5)


class Camera(GstRtspServer.RTSPMediaFactory):
    """Gives each viewer a pipeline of its own, fed from memory."""

    def __init__(self, options: argparse.Namespace, loops: list[list[Unit]]) -> None:
        super().__init__()
        self.options = options
        self.loops = loops
        self.silent = False
        self.waiting: list[tuple[Gst.Element, object]] = []

    def do_create_element(self, _url: object) -> Gst.Element:
        """One viewer's pipeline."""
        codec = self.options.codec
        line = f"( appsrc name=src is-live=true format=time caps={CAPS[codec]} ! {PAYLOADERS[codec]} name=pay0 pt=96 )"
        pipeline = Gst.parse_launch(line)
        buffers = self.buffers()
        pipeline.get_by_name("src").connect("need-data", lambda source, _length: self.feed(source, buffers))
        return pipeline

    def feed(self, source: Gst.Element, buffers: object) -> None:
        """Give the pipeline the next picture, or keep it waiting while silent."""
        if self.silent:
            self.waiting.append((source, buffers))
        else:
            source.emit("push-buffer", next(buffers))

    def buffers(self) -> object:
        """Pictures for ever, with time stamps that go on."""
        start = 0
        for units in itertools.cycle(self.loops):
            for unit in units:
                at = start + unit.pts
                data = unit.data
                if self.options.garble_after is not None and at >= self.options.garble_after * Gst.SECOND:
                    data = garbled(data)
                if self.options.no_keyframes and unit.keyframe:
                    data = without_keyframe(data)
                buffer = Gst.Buffer.new_wrapped(data)
                # Before the first picture is shown, H.264 with B-frames has decoding times below zero.
                buffer.pts, buffer.dts, buffer.duration = at, max(0, start + unit.dts), unit.duration
                if not unit.keyframe:
                    buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
                yield buffer
            start += max(unit.pts + unit.duration for unit in units)

    def silence(self) -> bool:
        """Send nothing from now on."""
        self.silent = True
        return GLib.SOURCE_CONTINUE

    def speak(self) -> bool:
        """Send again, first what was held back."""
        self.silent = False
        waiting, self.waiting = self.waiting, []
        for source, buffers in waiting:
            self.feed(source, buffers)
        return GLib.SOURCE_CONTINUE


def size_of(text: str) -> tuple[int, int]:
    """``640x360`` as numbers."""
    width, height = text.split("x")
    return int(width), int(height)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", required=True)
    parser.add_argument("--port", default="0")
    parser.add_argument("--path", default="/camera")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--codec", choices=sorted(CAPS), default="h264")
    parser.add_argument("--size", type=size_of, action="append", help="WxH; given several times, every loop has the next one")
    parser.add_argument("--fps", type=int, default=0)
    parser.add_argument("--gop", type=int, default=25, help="frames from keyframe to keyframe where encoded anew")
    parser.add_argument("--garble-after", type=float, help="seconds after which pictures are noise")
    parser.add_argument("--no-keyframes", action="store_true")
    options = parser.parse_args()

    Gst.init(None)
    loops = [read_units(options, size) for size in options.size or [None]]
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    camera = Camera(options, loops)
    camera.set_protocols(GstRtsp.RTSPLowerTrans.TCP | GstRtsp.RTSPLowerTrans.UDP)
    camera.set_latency(0)
    if options.user:
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_digest(options.user, options.password, token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        for permission in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", permission, True)
        camera.set_permissions(permissions)
    server.get_mount_points().add_factory(options.path, camera)
    server.attach(None)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGUSR1, camera.silence)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGUSR2, camera.speak)
    # Viewers that went away without a word.
    GLib.timeout_add_seconds(5, lambda: server.get_session_pool().cleanup() is not None)
    print(f"ready {server.get_bound_port()}", flush=True)  # noqa: T201 - how the starter learns the port
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

"""An RTSP server that takes what is published to it into a file. For Debian's own Python, which has GStreamer's bindings.

Usage: python3 rtsp_recorder.py PORT FILE
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions must be chosen first


def main() -> None:
    """Serve until killed."""
    port, file = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(f"( rtph264depay name=depay0 ! h264parse config-interval=1 ! mpegtsmux ! filesink location={file} buffer-mode=2 )")
    factory.set_latency(100)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    print("ready", flush=True)  # noqa: T201 - told to the test that has started it
    GLib.MainLoop().run()


main()

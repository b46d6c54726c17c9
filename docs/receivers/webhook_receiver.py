"""Receives events as webhooks, checks their signatures and prints them. Needs Python alone.

SECRET=... python webhook_receiver.py [PORT]
"""

import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("SECRET", "").encode()
TOLERANCE_S = 300


def is_genuine(header: str, body: bytes, now: float) -> bool:
    """Whether ``x-face-server-signature`` was made for ``body`` with our secret, within the last five minutes."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    timestamp = parts.get("t", "")
    if not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts.get("v1", ""))


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 once an event is dealt with; any other answer but 4xx brings it again."""

    seen: dict[str, None] = {}  # noqa: RUF012 - shared by all requests

    def do_POST(self) -> None:
        """One event."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_genuine(self.headers.get("x-face-server-signature", ""), body, time.time()):
            self.send_error(401, "the signature is wrong or old")
            return
        event = json.loads(body)
        # The same event comes again when our answer got lost.
        if event["id"] not in self.seen:
            self.seen[event["id"]] = None
            if len(self.seen) > 10_000:
                del self.seen[next(iter(self.seen))]
            print(f"{event['at']} {event['kind']} on {event['stream_id']}: {event['message']}", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print events only."""


def main() -> None:
    """Serve until interrupted."""
    server = ThreadingHTTPServer(("", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Receiver)
    print(f"receiving on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

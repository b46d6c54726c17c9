"""Cameras, receivers, the media server and the service itself are made to fail, and what was lost is counted.

``python -m benchmarks.faults [--only NAME] [--out docs/benchmarks.md]``. The tests run a part of it.
"""

from __future__ import annotations

import argparse
import http.server
import itertools
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.cameras import CameraOptions, CameraStandIn
from benchmarks.report import machine, replace_section, table
from benchmarks.service import Service

STAGE = "stage_360p.mp4"
RULES = {"absence_s": 1, "realert_s": 0, "realert_on_return": True, "max_fps": 5}
STREAMS = 2

_LEFT_S = 60.0


@dataclass
class Receiver:
    """A webhook receiver on loopback that notes the ids of the events it acknowledged, stream by stream. It keeps its port."""

    port: int = 0
    received: dict[str, list[str]] = field(default_factory=dict)
    refuse: bool = False
    _server: http.server.ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/events"

    def start(self) -> Self:
        """Listen."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if receiver.refuse:
                    self.send_response(503)
                else:
                    receiver.received.setdefault(event["stream_id"], []).append(event["id"])
                    self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the name is http.server's
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop to listen; connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to."""

    name: str
    rounds: int
    events: int
    lost: int
    repeated: int
    disordered: int
    should_run: int
    run: int
    back_s: float

    def row(self) -> list[str]:
        """The outcome as a line of the table."""
        return [
            self.name,
            str(self.rounds),
            str(self.events),
            str(self.lost),
            str(self.repeated),
            str(self.disordered),
            f"{self.run} of {self.should_run}",
            f"{self.back_s:.1f}",
        ]


@dataclass
class Site:
    """A service with cameras and a receiver of events."""

    server: Service
    cameras: list[CameraStandIn]
    receiver: Receiver

    def ids(self) -> list[str]:
        """Its streams."""
        return [f"camera-{number}" for number in range(len(self.cameras))]

    def register(self) -> None:
        """Tell the service of every camera."""
        for stream_id, camera in zip(self.ids(), self.cameras, strict=True):
            sinks = [{"kind": "webhook", "address": self.receiver.url}]
            self.server.send("POST", "/v1/streams", {"id": stream_id, "url": camera.url, "rules": RULES, "sinks": sinks})

    def running(self) -> int:
        """How many streams run."""
        return sum(one["status"]["state"] == "running" for one in self.server.get("/v1/streams")["streams"])

    def wait_until_running(self, timeout_s: float = 60.0) -> float:
        """Wait until all streams run, and return for how long that was."""
        return self.server.wait_for(lambda: self.running() == len(self.cameras), timeout_s, "all streams to run")

    def journal(self) -> dict[str, list[str]]:
        """The ids of all events, stream by stream, in order."""
        found: dict[str, list[str]] = {}
        after: int | None = 0
        while after is not None:
            page = self.server.get("/v1/events", after=after, limit=1000)
            for event in page["events"]:
                found.setdefault(event["stream_id"], []).append(event["id"])
            after = page["next_cursor"]
        return found

    def settle(self) -> None:
        """Wait until the receiver has every event of the journal."""

        def all_there() -> bool:
            return all(set(ids) <= set(self.receiver.received.get(stream, [])) for stream, ids in self.journal().items())

        with suppress(TimeoutError):
            self.server.wait_for(all_there, _LEFT_S, "the receiver to have everything")

    def outcome(self, name: str, rounds: int, back_s: float) -> Outcome:
        """Count what was lost, repeated or out of order."""
        journal = self.journal()
        lost = repeated = disordered = 0
        for stream, ids in journal.items():
            came = self.receiver.received.get(stream, [])
            first = list(dict.fromkeys(came))
            lost += len(set(ids) - set(came))
            repeated += len(came) - len(first)
            place = {event: index for index, event in enumerate(ids)}
            order = [place[event] for event in first if event in place]
            disordered += sum(a > b for a, b in itertools.pairwise(order))
        # What was acknowledged by the receiver but is not in the journal was forgotten by the service.
        forgotten = sum(len(set(came) - set(journal.get(stream, []))) for stream, came in self.receiver.received.items())
        events = sum(map(len, journal.values()))
        return Outcome(name, rounds, events, lost + forgotten, repeated, disordered, len(self.cameras), self.running(), back_s)


@contextmanager
def site(videos: Path, options: CameraOptions | None = None, streams: int = STREAMS, arguments: tuple[str, ...] = ()) -> Iterator[Site]:
    """A site whose streams run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cameras = [stack.enter_context(CameraStandIn(videos / STAGE, options or CameraOptions())) for _ in range(streams)]
        receiver = Receiver().start()
        stack.callback(receiver.stop)
        server = stack.enter_context(Service(folder, arguments))
        built = Site(server, cameras, receiver)
        built.register()
        built.wait_until_running()
        yield built


Fault = Callable[[Site], None]


def _each(site: Site, action: Callable[[CameraStandIn], object]) -> None:
    for camera in site.cameras:
        action(camera)


def camera_killed(site: Site) -> None:
    """Cameras vanish for six seconds."""
    _each(site, CameraStandIn.kill)
    time.sleep(6)
    _each(site, CameraStandIn.start)


def camera_frozen(site: Site) -> None:
    """Cameras stand still for ten seconds with their connections open."""
    _each(site, CameraStandIn.freeze)
    time.sleep(10)
    _each(site, CameraStandIn.thaw)


def camera_silent(site: Site) -> None:
    """Cameras answer but send no pictures for ten seconds."""
    _each(site, CameraStandIn.silence)
    time.sleep(10)
    _each(site, CameraStandIn.speak)


def camera_garbled(site: Site) -> None:
    """Cameras send noise, then are replaced."""
    _each(site, lambda camera: camera.restart(garble_after_s=2.0))
    time.sleep(10)
    _each(site, lambda camera: camera.restart(garble_after_s=None))


def camera_resized(site: Site) -> None:
    """Cameras come back with another picture size, and then with the old one."""
    _each(site, lambda camera: camera.restart(sizes=("320x180",)))
    time.sleep(8)
    _each(site, lambda camera: camera.restart(sizes=()))


def password_changed(site: Site) -> None:
    """Somebody changes the password of the cameras; the operator hears of it and tells the service."""
    _each(site, lambda camera: camera.restart(user="admin", password="changed"))
    known = lambda: all(site.server.status(one)["code"] == "source_credentials" for one in site.ids())  # noqa: E731  # read once
    site.server.wait_for(known, 30, "the wrong password to be named")
    for stream_id, camera in zip(site.ids(), site.cameras, strict=True):
        site.server.send("PATCH", f"/v1/streams/{stream_id}", {"url": camera.url})


def receiver_away(site: Site) -> None:
    """The receiver of events is away for ten seconds."""
    site.receiver.stop()
    time.sleep(10)
    site.receiver.start()


def receiver_refuses(site: Site) -> None:
    """The receiver answers 503 for ten seconds."""
    site.receiver.refuse = True
    time.sleep(10)
    site.receiver.refuse = False


def service_killed(site: Site) -> None:
    """The service is killed in the midst of it and started again."""
    site.server.kill()
    site.server.start()


def service_frozen(site: Site) -> None:
    """The whole service stands still for eight seconds."""
    _signal(site.server.pid, signal.SIGSTOP)
    time.sleep(8)
    _signal(site.server.pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


SCENARIOS: dict[str, tuple[Fault, int]] = {
    "camera killed": (camera_killed, 3),
    "camera frozen": (camera_frozen, 2),
    "camera silent": (camera_silent, 2),
    "camera sends garbage": (camera_garbled, 1),
    "camera changes its size": (camera_resized, 1),
    "camera's password changed": (password_changed, 1),
    "receiver away": (receiver_away, 2),
    "receiver answers 503": (receiver_refuses, 2),
    "service killed (kill -9)": (service_killed, 8),
    "service frozen": (service_frozen, 2),
}


def run(name: str, videos: Path, rounds: int | None = None) -> Outcome:
    """Play one scenario and count."""
    fault, usual = SCENARIOS[name]
    rounds = rounds or usual
    back = 0.0
    with site(videos) as built:
        for _ in range(rounds):
            time.sleep(5)
            fault(built)
            back = max(back, built.wait_until_running())
        time.sleep(5)
        # Nothing new may happen while it is counted.
        for stream_id in built.ids():
            built.server.send("PATCH", f"/v1/streams/{stream_id}", {"rules": {"regions": [[[0, 0], [0.001, 0], [0, 0.001]]]}})
        time.sleep(3)
        built.settle()
        return built.outcome(name, rounds, back)


def page(outcomes: list[Outcome]) -> str:
    """The table of all scenarios."""
    head = ["fault", "rounds", "events", "lost", "delivered again", "out of order", "streams that run", "all running again after, s"]
    return f"""
Measured on {machine()}: {STREAMS} cameras (RTSP), a webhook receiver, one service. Events are those in the journal;
a delivery that is repeated carries the id of the first.

{table(head, [one.row() for one in outcomes])}
"""


def main() -> None:
    """Play the scenarios, and print or publish the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    outcomes = []
    for name in chosen.only or SCENARIOS:
        outcomes.append(run(name, chosen.videos))
        print(" | ".join(outcomes[-1].row()), flush=True)
    if chosen.out:
        replace_section(chosen.out, "faults", page(outcomes))


if __name__ == "__main__":
    main()

"""A service with cameras and a receiver of events, watched by a witness, and what a fault did to it."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.cameras import CameraOptions, CameraStandIn
from benchmarks.receivers import MediaServer, Notebook, Receiver
from benchmarks.service import MODELS, Service

STAGE = "stage_360p.mp4"
RULES = {"absence_s": 1, "realert_s": 0, "realert_on_return": True, "max_fps": 5}
STREAMS = 2
ALERTS = frozenset({"person_seen", "stranger_seen"})

_LEFT_S = 90.0
_BACK_FRAMES = 3
_WITNESS_S = 0.5

Event = dict[str, Any]
Journal = dict[str, list[Event]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to. ``noticed_s`` and ``back_s`` are the worst of all rounds, None where they do not apply."""

    name: str
    rounds: int
    events: int
    lost: int
    repeated: int
    disordered: int
    should_run: int
    run: int
    astray: int
    noticed_s: float | None
    back_s: float | None
    remark: str

    def row(self) -> list[str]:
        """The outcome as a line of the table."""
        runs = f"{self.run} of {self.should_run}" + (f", {self.astray} that should not" if self.astray else "")
        seconds = ["–" if one is None else f"{one:.1f}" for one in (self.noticed_s, self.back_s)]
        return [self.name, *map(str, (self.rounds, self.events, self.lost, self.repeated, self.disordered)), runs, *seconds, self.remark]


class Witness:
    """Reads the journal as it grows: whatever it was shown must never be gone again."""

    def __init__(self, server: Service) -> None:
        self._server = server
        self._cursor = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.shown: set[str] = set()
        self._thread.start()

    def close(self) -> None:
        """Look away."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_WITNESS_S):
            # The client is closed when the service is killed.
            with suppress(httpx.HTTPError, RuntimeError):
                for event in self._server.get("/v1/events", after=self._cursor, limit=1000)["events"]:
                    self.shown.add(event["id"])
                    self._cursor = max(self._cursor, event["cursor"])


@dataclass
class Site:
    """A service with cameras and a receiver of events. Faults note in it what they measured."""

    server: Service
    cameras: list[CameraStandIn]
    receiver: Receiver
    witness: Witness
    media: MediaServer
    rules: dict[str, Any] = field(default_factory=lambda: dict(RULES))
    noticed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    remark: str = ""
    _counted: Counter[str] = field(default_factory=Counter)

    def ids(self) -> list[str]:
        """The streams that should run, as many as there are cameras."""
        return [f"camera-{number}" for number in range(len(self.cameras))]

    def register(self) -> None:
        """Tell the service of every camera."""
        for stream_id, camera in zip(self.ids(), self.cameras, strict=True):
            self.add(stream_id, camera.url)

    def add(self, stream_id: str, url: str, **more: Any) -> None:
        """Tell the service of one stream."""
        body = {"id": stream_id, "url": url, "rules": self.rules, "sinks": [self.receiver.sink()], **more}
        self.server.send("POST", "/v1/streams", body)

    def change(self, **members: Any) -> None:
        """Change every stream."""
        for stream_id in self.ids():
            self.server.send("PATCH", f"/v1/streams/{stream_id}", members)

    def running(self) -> set[str]:
        """The streams that run now."""
        return {stream_id for stream_id, status in self.server.statuses().items() if status["state"] == "running"}

    def reason(self) -> str:
        """What the status of the first stream says."""
        return str(self.server.status(self.ids()[0])["reason"])

    def analysed(self) -> dict[str, int]:
        """How many frames of each stream were analysed."""
        found = self.server.statuses()
        return {stream_id: found[stream_id]["analysed"] for stream_id in self.ids()}

    def rate(self, seconds: float) -> float:
        """Frames that are analysed a second, of the slowest stream."""
        before, began = self.analysed(), time.monotonic()
        time.sleep(seconds)
        after, took = self.analysed(), time.monotonic() - began
        return min(after[one] - before[one] for one in before) / took

    def wait_until_running(self, timeout_s: float = 60.0) -> float:
        """Wait until all streams run and a few more frames of each were analysed; return for how long that was."""
        began = time.monotonic()
        before: dict[str, int] = {}

        def analysed_again() -> bool:
            if not before:
                before.update(self.analysed())
            statuses = self.server.statuses()
            return all(
                statuses[one]["state"] == "running" and statuses[one]["analysed"] >= before[one] + _BACK_FRAMES for one in self.ids()
            )

        self.server.wait_for(analysed_again, timeout_s, "all streams to run")
        return time.monotonic() - began

    def wait_until_noticed(self, since: float, timeout_s: float = 30.0) -> None:
        """Wait until no stream claims to run, and note the time since ``since``."""
        self.server.wait_for(lambda: not self.running() & set(self.ids()), timeout_s, "the fault to be noticed")
        self.noticed_s.append(time.monotonic() - since)

    def note_back(self, timeout_s: float = 60.0) -> None:
        """Wait until all streams run again from now on, and note the time."""
        self.back_s.append(self.wait_until_running(timeout_s))

    def each(self, action: Callable[[CameraStandIn], object]) -> None:
        """Do something with every camera at once."""
        with ThreadPoolExecutor(len(self.cameras)) as pool:
            list(pool.map(action, self.cameras))

    def journal(self) -> Journal:
        """All events, stream by stream, in order."""
        found: Journal = {}
        after: int | None = 0
        while after is not None:
            page = self.server.get("/v1/events", after=after, limit=1000)
            for event in page["events"]:
                found.setdefault(event["stream_id"], []).append(event)
            after = page["next_cursor"]
        return found

    def wait_for_events(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until ``count`` more events have happened, so that a fault meets some on their way."""
        before = len(self.witness.shown)
        self.server.wait_for(lambda: len(self.witness.shown) >= before + count, timeout_s, f"{count} events")

    def count(self, name: str, rounds: int) -> Outcome:
        """Let everything come to rest, and count what was lost, repeated or out of order since the last count."""
        # Nothing new may happen meanwhile: faces count in a corner only.
        self.change(rules={"regions": [[[0, 0], [0.01, 0], [0, 0.01]]]})
        time.sleep(RULES["absence_s"] + 2)
        self._settle()
        outcome = self._outcome(name, rounds)
        self.change(rules={"regions": []})
        return outcome

    def _expected(self) -> dict[str, list[str]]:
        kinds = ALERTS if self.receiver.sink()["kind"] == "grpc" else None
        return {
            stream: [self.receiver.name(event) for event in events if kinds is None or event["kind"] in kinds]
            for stream, events in self.journal().items()
        }

    def _settle(self) -> None:
        def all_there() -> bool:
            received = self.receiver.received()
            return all(not Counter(names) - Counter(received.get(stream, [])) for stream, names in self._expected().items())

        with suppress(TimeoutError):
            self.server.wait_for(all_there, _LEFT_S, "the receiver to have everything")

    def _outcome(self, name: str, rounds: int) -> Outcome:
        expected, received = self._expected(), self.receiver.received()
        tally = Counter[str]()
        for stream in expected.keys() | received.keys():
            names, came = expected.get(stream, []), received.get(stream, [])
            wanted, got = Counter(names), Counter(came)
            # What was acknowledged by the receiver but is not in the journal was forgotten by the service.
            tally["lost"] += (wanted - got).total() + len(got.keys() - wanted.keys())
            tally["repeated"] += (got - wanted).total() - sum(got[one] for one in got.keys() - wanted.keys())
            tally["disordered"] += inversions(names, came)
        events = [event["id"] for events in self.journal().values() for event in events]
        tally["lost"] += len(self.witness.shown - set(events))
        tally["events"] = len(events)
        fresh = {key: tally[key] - self._counted[key] for key in tally}
        self._counted = tally
        running, should = self.running(), set(self.ids())
        outcome = Outcome(
            name,
            rounds,
            fresh["events"],
            fresh["lost"],
            fresh["repeated"],
            fresh["disordered"],
            len(should),
            len(running & should),
            len(running - should),
            max(self.noticed_s, default=None),
            max(self.back_s, default=None),
            self.remark,
        )
        self.noticed_s, self.back_s, self.remark = [], [], ""
        return outcome


def inversions(names: Sequence[str], came: Sequence[str]) -> int:
    """How often something came for the first time before something that happened earlier."""
    place = {name: index for index, name in reversed(list(enumerate(names)))}
    order = [place[name] for name in dict.fromkeys(came) if name in place]
    return sum(a > b for a, b in itertools.pairwise(order))


MakeReceiver = Callable[[Path], Receiver]


def webhook(folder: Path) -> Receiver:
    """The receiver of most scenarios."""
    return Notebook("webhook", folder)


@contextmanager
def open_site(
    videos: Path,
    *,
    models: Path = MODELS,
    options: CameraOptions | None = None,
    streams: int = STREAMS,
    receiver: MakeReceiver = webhook,
    publish: bool = False,
) -> Iterator[Site]:
    """A site whose streams run; with ``publish`` they are also published to a media server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cameras = [CameraStandIn(videos / STAGE, options or CameraOptions()) for _ in range(streams)]
        for camera in cameras:
            stack.enter_context(camera)
        built = receiver(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(built.close)
        built.start()
        media = MediaServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(media.kill)
        if publish:
            media.start()
        server = Service(folder, environment={"FACE_SERVER_STREAMS__PUBLISH_URL": media.url} if publish else {}, models=models)
        stack.enter_context(server)
        witness = Witness(server)
        stack.callback(witness.close)
        site = Site(server, cameras, built, witness, media, {**RULES, "publish": publish})
        site.register()
        site.wait_until_running()
        yield site

"""Replicas that share a Redis, with cameras, a receiver of events and people who come and go, and what a fault did to all of it."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.camera_thread import CameraThread
from benchmarks.demos import draw_visits
from benchmarks.guests import Away, Desk, Guests, Sight, Tally
from benchmarks.receivers import Notebook
from benchmarks.service import MODELS, Service
from benchmarks.site import inversions
from face_server.api.middleware.staleness import HEADER
from face_server.domain.image import Floats

STREAMS = 2
REPLICAS = 2
LATE_S = 10.0
"""A stream that does not run must do so again within this time."""

_RULES = {"absence_s": 1, "realert_s": 0, "realert_on_return": True, "max_fps": 5}
_CORNER = [[[0, 0], [0.01, 0], [0, 0.01]]]
_DIMENSION = 128
_PEOPLE = "/v1/collections/default"
_TWICE_S = 0.5
_SAMPLE_S = 0.05
_LEFT_S = 60.0
_BACK_FRAMES = 3
# The end of what is said for long after Redis was emptied, though all is well.
_GONE = " gone"


class HttpDesk:
    """A real server, whose guests are enrolled by their embeddings."""

    def __init__(self, service: Service) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30.0, verify=False, trust_env=False)

    def enrol(self, guest: str, vector: Floats) -> str:
        """See Desk."""
        return _refusal(self._ask("POST", f"{_PEOPLE}/identities", {"id": guest, "name": guest, "embeddings": [vector.tolist()]}))

    def erase(self, guest: str) -> str:
        """See Desk."""
        return _refusal(self._ask("DELETE", f"{_PEOPLE}/identities/{guest}"))

    def look(self, vector: Floats) -> Sight:
        """See Desk."""
        answer = self._ask("POST", f"{_PEOPLE}/identify", {"embeddings": [vector.tolist()], "threshold": 0.9, "limit": 1})
        if refusal := _refusal(answer):
            return Sight(refused=refusal)
        match = answer.json()["embeddings"][0]["match"]
        return Sight(match["identity"]["id"] if match else "", sure=HEADER not in answer.headers)

    def known(self) -> set[str]:
        """See Desk."""
        found: set[str] = set()
        cursor: str | None = ""
        while cursor is not None:
            page = self._ask("GET", f"{_PEOPLE}/identities?limit=1000&cursor={cursor}").raise_for_status().json()
            found |= {one["id"] for one in page["identities"]}
            cursor = page["next_cursor"]
        return found

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body)
        except (httpx.HTTPError, RuntimeError) as error:
            raise Away from error


def _refusal(answer: httpx.Response) -> str:
    if answer.is_success:
        return ""
    late = "" if answer.status_code != 503 or "retry-after" in answer.headers else " without Retry-After"
    return f"{answer.status_code} {answer.json().get('code', '')}{late}"


class Watch:
    """Counts, every few milliseconds, who watches each camera."""

    def __init__(self, cameras: CameraThread) -> None:
        self.twice = 0
        self.dark_s: list[float] = []
        self._cameras = cameras
        self._since: dict[int, tuple[int, float]] = {}
        self._over = threading.Event()
        self._off = threading.Event()
        self._off.set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Every camera should be watched by exactly one replica from now on."""
        self._since.clear()
        self._off.clear()

    def end(self) -> None:
        """That need not be so any longer."""
        self._off.set()
        time.sleep(2 * _SAMPLE_S)
        now = time.monotonic()
        self.dark_s += [now - since for viewers, since in self._since.values() if viewers == 0]
        self._since.clear()

    def close(self) -> None:
        """Look away."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            if self._off.is_set():
                continue
            now = time.monotonic()
            for number, viewers in enumerate(self._cameras.viewers):
                was, since = self._since.setdefault(number, (viewers, now))
                if viewers != was:
                    if was == 0:
                        self.dark_s.append(now - since)
                    # A connection that ended is noticed a moment late.
                    self.twice += was > 1 and now - since > _TWICE_S
                    self._since[number] = (viewers, now)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to; ``dark_s`` is the longest time a stream ran nowhere, ``events`` those of the journal."""

    name: str
    rounds: int
    tally: Tally
    twice: int
    late: int
    dark_s: float
    events: int
    lost: int
    repeated: int
    disordered: int
    noticed_s: float | None
    back_s: float | None
    remark: str

    def row(self) -> list[str]:
        """The outcome as a line of the table."""
        tally = self.tally
        seconds = ["–" if one is None else f"{one:.1f}" for one in (self.noticed_s, self.back_s)]
        writes = [f"{tally.acknowledged}", f"{tally.lost}", f"{tally.phantoms}", f"{tally.searches}", f"{tally.unanswered.total()}"]
        streams = [f"{self.twice}", f"{self.late}", f"{self.dark_s:.1f}"]
        return [
            self.name,
            f"{self.rounds}",
            *writes,
            *streams,
            *map(str, (self.events, self.lost, self.repeated, self.disordered)),
            *seconds,
            self.remark,
        ]


@dataclass
class ReplicaSite:
    """Real servers with one Redis. Faults note in it what they measured."""

    services: list[Service]
    cameras: CameraThread
    receiver: Notebook
    watch: Watch
    redis: Any
    line: Any = None
    noticed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    remark: str = ""
    shown: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    guests: Guests = field(init=False)
    _desks: dict[str, HttpDesk] = field(default_factory=dict)
    _dead: set[int] = field(default_factory=set)
    _seen_by_the_dead: bool = False

    def __post_init__(self) -> None:
        for number in range(len(self.services)):
            self._desks[f"r{number}"] = HttpDesk(self.services[number])
        self.guests = Guests(self.desks, _DIMENSION, seed=secrets.randbits(32))

    def desks(self) -> dict[str, Desk]:
        """The replicas that are there."""
        return {name: desk for name, desk in self._desks.items() if int(name[1:]) not in self._dead}

    def alive(self) -> list[Service]:
        """The servers that are there."""
        return [service for number, service in enumerate(self.services) if number not in self._dead]

    def kill(self, number: int) -> None:
        """Kill a replica without a word to anybody."""
        self._dead.add(number)
        self._seen_by_the_dead = True
        self.services[number].kill()

    def stop(self, number: int) -> None:
        """End a replica politely."""
        self._dead.add(number)
        self._seen_by_the_dead = True
        if code := self.services[number].stop():
            raise RuntimeError(f"a replica ended with {code}")

    def start(self, number: int) -> None:
        """Start it again."""
        self.services[number].start()
        self._dead.discard(number)

    def ids(self) -> list[str]:
        """The streams that should run."""
        return [f"camera-{number}" for number in range(len(self.cameras.urls))]

    def register(self) -> None:
        """Tell the replicas of every camera, each of them of another."""
        for number, (stream_id, url) in enumerate(zip(self.ids(), self.cameras.urls, strict=True)):
            body = {"url": url, "rules": _RULES, "sinks": [self.receiver.sink()]}
            self.alive()[number % len(self.alive())].send("PUT", f"/v1/streams/{stream_id}", body)

    def wait_until_running(self, timeout_s: float = 60.0) -> float:
        """Wait until every replica says that all streams run, and that a few more frames were analysed; return for how long that was."""
        began = time.monotonic()
        before: dict[str, int] = {}

        def analysed() -> bool:
            every = [service.statuses() for service in self.alive()]
            if not all(one[stream]["state"] == "running" for one in every for stream in self.ids() if stream in one):
                return False
            if any(stream not in one for one in every for stream in self.ids()):
                return False
            # A stream that moved counts anew.
            now = {stream: every[0][stream]["analysed"] for stream in self.ids()}
            before.update({stream: count for stream, count in now.items() if count < before.get(stream, count + 1)})
            return all(now[stream] >= before[stream] + _BACK_FRAMES for stream in now)

        Service.wait_for(analysed, timeout_s, "all streams to run")
        return time.monotonic() - began

    def complaints(self, service: Service, *, past: bool = False) -> str:
        """What a replica says is not well; empty if all is. What was lost in the past counts with ``past`` only."""
        try:
            with httpx.Client(timeout=10.0, verify=False, trust_env=False) as client:
                answer = client.get(f"http://127.0.0.1:{service.port}/readyz").json()
        except httpx.HTTPError as error:
            return f"no answer: {type(error).__name__}"
        said = {one["name"]: one["reason"] or ("" if one["ready"] else "not ready") for one in answer["checks"]}
        return "; ".join(f"{name}: {reason}" for name, reason in said.items() if reason and (past or not reason.endswith(_GONE)))

    def note_noticed(self, since: float, timeout_s: float = 15.0) -> None:
        """Wait until every replica says that something is wrong, and note the time since ``since``."""
        Service.wait_for(lambda: all(self.complaints(one) for one in self.alive()), timeout_s, "every replica to notice")
        self.noticed_s.append(time.monotonic() - since)
        self.remark = self.remark or "said of " + " and ".join(one.split(":")[0] for one in self.complaints(self.alive()[0]).split("; "))

    def note_back(self, timeout_s: float = 60.0) -> None:
        """Wait until every replica is well and all streams run, and note the time from now."""
        began = time.monotonic()
        Service.wait_for(lambda: not any(self.complaints(one) for one in self.alive()), timeout_s, "every replica to be well")
        self.wait_until_running(timeout_s)
        self.back_s.append(time.monotonic() - began)

    def journal(self) -> dict[str, list[str]]:
        """The ids of all events, stream by stream, in order; asked of one replica."""
        found: dict[str, list[str]] = {}
        after: int | None = 0
        while after is not None:
            page = self.alive()[0].get("/v1/events", after=after, limit=1000)
            for event in page["events"]:
                found.setdefault(event["stream_id"], []).append(event["id"])
            after = page["next_cursor"]
        self.shown |= {one for ids in found.values() for one in ids}
        return found

    def excuse(self) -> None:
        """Forget every event there was so far."""
        known = {one for ids in (*self.journal().values(), *self.receiver.received().values()) for one in ids}
        self.excused |= known | self.shown
        self.shown.clear()

    def wait_for_events(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until ``count`` more events are in the journal."""
        before = sum(map(len, self.journal().values()))
        Service.wait_for(lambda: sum(map(len, self.journal().values())) >= before + count, timeout_s, f"{count} events")

    def count(self, name: str, rounds: int) -> Outcome:
        """Let everything come to rest, and count. The site is of no further use for counting."""
        self.guests.pause()
        self.watch.end()
        for stream in self.ids():
            self.alive()[0].send("PATCH", f"/v1/streams/{stream}", {"rules": {"regions": _CORNER}})
        time.sleep(_RULES["absence_s"] + 4)
        with suppress(TimeoutError):
            Service.wait_for(lambda: not sum(one.metric("face_server_spooled_events") for one in self.alive()), _LEFT_S, "the spools")
        with suppress(TimeoutError):
            Service.wait_for(self._all_received, _LEFT_S, "the receiver to have everything")
        self.guests.settle()
        journal, received = (
            {stream: [one for one in ids if one not in self.excused] for stream, ids in found.items()}
            for found in (self.journal(), self.receiver.received())
        )
        tally = Counter[str]()
        for stream in journal.keys() | received.keys():
            names, came = journal.get(stream, []), received.get(stream, [])
            tally["lost"] += len(set(names) ^ set(came))
            tally["repeated"] += len(came) - len(set(came))
            tally["disordered"] += inversions(names, came)
        ids = {one for names in journal.values() for one in names}
        tally["lost"] += len(self.shown - self.excused - ids - {one for came in received.values() for one in came})
        if not self._seen_by_the_dead and not self.excused:
            # What waited on a disk counts as well: every replica knows how much it has seen.
            tally["lost"] += max(0, round(sum(one.metric("face_server_events_total") for one in self.alive())) - len(ids))
        return Outcome(
            name,
            rounds,
            self.guests.tally,
            self.watch.twice,
            sum(one > LATE_S for one in self.watch.dark_s),
            max(self.watch.dark_s, default=0.0),
            len(ids),
            tally["lost"],
            tally["repeated"],
            tally["disordered"],
            max(self.noticed_s, default=None),
            max(self.back_s, default=None),
            self.remark,
        )

    def close(self) -> None:
        """Hang up."""
        self.guests.close()
        for desk in self._desks.values():
            desk.close()

    def _all_received(self) -> bool:
        received = self.receiver.received()
        return all(set(names) <= set(received.get(stream, [])) for stream, names in self.journal().items())


@contextmanager
def open_site(
    redis: Any, url: str, *, models: Path = MODELS, line: Any = None, replicas: int = REPLICAS, wait_replicas: int = 0
) -> Iterator[ReplicaSite]:
    """A site whose streams run, with a Redis that runs already and is reached at ``url``."""
    with ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        cameras = stack.enter_context(CameraThread(draw_visits(folder() / "visits.mp4"), STREAMS))
        receiver = Notebook("webhook", folder()).start()
        stack.callback(receiver.close)
        environment = {
            "FACE_SERVER_STATE__REDIS_URL": url,
            "FACE_SERVER_STATE__WAIT_REPLICAS": str(wait_replicas),
            "FACE_SERVER_STREAMS__SECRET_KEY": secrets.token_hex(32),
        }
        services = [Service(folder(), environment=environment, models=models) for _ in range(replicas)]
        for service in services:
            stack.callback(service.__exit__)
        with ThreadPoolExecutor(replicas) as pool:
            list(pool.map(Service.start, services))
        watch = Watch(cameras)
        stack.callback(watch.close)
        site = ReplicaSite(services, cameras, receiver, watch, redis, line)
        stack.callback(site.close)
        site.register()
        site.wait_until_running()
        site.guests.go_on()
        watch.begin()
        yield site

"""Replicas are killed in random order, hundreds of times, while people are enrolled and looked for, cameras run and alerts go out."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import orjson

from benchmarks.guests import Away, Desk, Guests, Sight, unit_vector
from benchmarks.receivers import Notebook
from benchmarks.redis_replica import MODEL, open_journal
from benchmarks.redis_server import RedisServer
from benchmarks.redis_site import LATE_S, Outcome
from benchmarks.replica_notes import GAP_S, ReplicaNotes, Stretch, gaps, overlaps
from benchmarks.service import Service
from benchmarks.site import inversions
from face_server.domain.image import Floats
from face_server.domain.streams import SinkKind, SinkSpec, StreamRules, StreamSpec
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers

FLEET_ROUNDS = 200
STREAMS = 6
NAMES = ("a", "b", "c")

_ANSWER_S = 20.0
_LEFT_S = 60.0


class SocketDesk:
    """A replica of ``benchmarks.redis_replica``; it is asked anew over a connection of its own each time."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def enrol(self, guest: str, vector: Floats) -> str:
        """See Desk."""
        return str(self._ask(do="enrol", guest=guest, vector=vector.tolist()).get("refused", ""))

    def erase(self, guest: str) -> str:
        """See Desk."""
        return str(self._ask(do="erase", guest=guest).get("refused", ""))

    def look(self, vector: Floats) -> Sight:
        """See Desk."""
        return Sight(**self._ask(do="look", vector=vector.tolist()))

    def known(self) -> set[str]:
        """See Desk."""
        return set(self._ask(do="known")["known"])

    def _ask(self, **asked: Any) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as line, line.makefile("rb") as answers:
                line.settimeout(_ANSWER_S)
                line.connect(str(self._place))
                line.sendall(orjson.dumps(asked) + b"\n")
                answer = answers.readline()
        except OSError as error:
            raise Away from error
        if not answer.endswith(b"\n"):
            raise Away
        found: dict[str, Any] = orjson.loads(answer)
        return found


class Fleet(ReplicaNotes):
    """Replicas that are forked, killed and forked again, and what they noted."""

    def __init__(self, folder: Path, redis: RedisServer, receiver: Notebook) -> None:
        super().__init__(folder)
        self.redis = redis
        self.receiver = receiver
        self.pids: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        line = [sys.executable, "-m", "benchmarks.redis_replica", str(self.folder), self.redis.url]
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parent.parent
        )
        asyncio.run(self._register())
        return self

    def __exit__(self, *exc_info: object) -> None:
        process = self._process
        assert process is not None
        for name in list(self.pids):
            self.end(name, signal.SIGKILL)
        with process:
            process.kill()

    def start(self, name: str) -> None:
        """Fork a replica."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        self.pids[name] = int(process.stdout.readline())

    def end(self, name: str, how: signal.Signals) -> float:
        """Kill a replica, or end it in good order. Returns when that was."""
        with suppress(ProcessLookupError):
            os.kill(self.pids.pop(name), how)
        return time.monotonic()

    def desks(self) -> dict[str, Desk]:
        """Those that run."""
        return {name: SocketDesk(self.folder / f"{name}.sock") for name in list(self.pids)}

    def answers(self, name: str) -> bool:
        """Whether a replica serves."""
        try:
            return not SocketDesk(self.folder / f"{name}.sock").look(unit_vector([0], MODEL.dimension)).refused
        except Away:
            return False

    def running(self) -> set[str]:
        """Streams of which there was a frame just now."""
        now = time.monotonic()
        return {stream for _, (stream, at) in self.notes("frame") if now - float(at) < GAP_S}

    def journal(self) -> dict[str, list[str]]:
        """The ids of all events, stream by stream, in order."""
        return asyncio.run(self._journal())

    async def _journal(self) -> dict[str, list[str]]:
        connection = await open_redis(RedisOptions(self.redis.url))
        found: dict[str, list[str]] = {}
        with Workers(1) as workers:
            journal, after = await open_journal(connection, workers), 0
            while page := await journal.events(after=after, limit=1_000):
                after = page[-1].cursor
                for event in page:
                    found.setdefault(event.stream_id, []).append(event.id)
            await journal.close()
        await connection.close()
        return found

    async def _register(self) -> None:
        connection = await open_redis(RedisOptions(self.redis.url))
        sink = SinkSpec(SinkKind.WEBHOOK, self.receiver.sink()["address"])
        with Workers(1) as workers:
            journal = await open_journal(connection, workers)
            for number in range(STREAMS):
                await journal.add_stream(StreamSpec(f"s{number}", "rtsp://10.0.0.9/live", sinks=(sink,), rules=StreamRules(max_fps=10)))
            await journal.close()
        await connection.close()


@contextmanager
def open_fleet() -> Iterator[Fleet]:
    """Three replicas whose streams run."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        for part in ("redis", "receiver", "notes"):
            (folder / part).mkdir()
        receiver = Notebook("webhook", folder / "receiver").start()
        try:
            with RedisServer(folder / "redis") as redis, Fleet(folder / "notes", redis, receiver) as fleet:
                for one in NAMES:
                    fleet.start(one)
                Service.wait_for(lambda: len(fleet.running()) == STREAMS, 30, "all streams to run")
                yield fleet
        finally:
            receiver.close()


def kill_at_random(rounds: int = FLEET_ROUNDS, *, seed: int = 0) -> Outcome:
    """Kill one replica after the other, each started again a moment later, and count."""
    chance = random.Random(seed)
    with open_fleet() as fleet:
        guests = Guests(fleet.desks, MODEL.dimension, threads=3, seed=seed)
        guests.go_on()
        kills, began = [], time.monotonic()
        for _ in range(rounds):
            time.sleep(chance.uniform(0.05, 1.2))
            name = chance.choice(sorted(fleet.pids))
            kills.append(fleet.end(name, signal.SIGKILL))
            time.sleep(chance.uniform(0.0, 0.5))
            fleet.start(name)
        ended = time.monotonic()
        back_s = Service.wait_for(lambda: len(fleet.running()) == STREAMS, 60, "all streams to run")
        Service.wait_for(lambda: all(fleet.answers(one) for one in fleet.pids), 30, "all replicas to answer")
        guests.pause()
        guests.settle()
        guests.close()
        stretches = fleet.stretches()
        _end_alerts(fleet)
        dark_s = gaps(stretches, kills, time.monotonic())
        return _outcome(fleet, guests, rounds, stretches, dark_s, began + time.monotonic() - ended, back_s)


def _end_alerts(fleet: Fleet) -> None:
    """Let cameras see nobody any more, and everything that they saw be delivered."""
    for pid in fleet.pids.values():
        os.kill(pid, signal.SIGUSR1)
    time.sleep(2.0)

    def all_received() -> bool:
        received = fleet.receiver.received()
        return all(set(names) <= set(received.get(stream, [])) for stream, names in fleet.journal().items())

    with suppress(TimeoutError):
        Service.wait_for(all_received, _LEFT_S, "the receiver to have everything")


def _outcome(
    fleet: Fleet, guests: Guests, rounds: int, stretches: list[Stretch], dark_s: list[float], began: float, back_s: float
) -> Outcome:
    journal, received = fleet.journal(), fleet.receiver.received()
    tally = Counter[str]()
    for stream in journal.keys() | received.keys():
        names, came = journal.get(stream, []), received.get(stream, [])
        tally["lost"] += len(set(names) ^ set(came))
        tally["repeated"] += len(came) - len(set(came))
        tally["disordered"] += inversions(names, came)
    ids = [one for names in journal.values() for one in names]
    stored = {words[1] for _, words in fleet.notes("stored")}
    tally["lost"] += len(stored - set(ids))
    tally["twice in the journal"] += len(ids) - len(set(ids))
    return Outcome(
        "replicas killed in random order",
        rounds,
        guests.tally,
        len(overlaps(stretches)),
        sum(one > LATE_S for one in dark_s),
        max(dark_s),
        len(ids),
        tally["lost"],
        tally["repeated"],
        tally["disordered"],
        None,
        back_s,
        f"{len(NAMES)} replicas, {STREAMS} streams, leases of a third; a kill every {(time.monotonic() - began) / rounds:.1f} s; "
        f"{tally['twice in the journal']} events twice in the journal",
    )

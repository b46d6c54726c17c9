"""A load generator that costs little: threads with keep-alive connections and ready-made requests."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of the generator saw: requests a second and latencies in milliseconds, sorted."""

    requests: int
    seconds: float
    latencies_ms: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency that ``percent`` of the requests stayed within."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * percent / 100))]


def drive(host: str, port: int, path: str, bodies: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """POST the JSON ``bodies`` in turn from ``clients`` connections for ``seconds``.

    Raises RuntimeError on the first answer that is not 200.
    """
    turn = itertools.cycle(bodies)
    lock = threading.Lock()
    latencies: list[float] = []
    failures: list[str] = []
    start = threading.Barrier(clients + 1)
    deadline = [0.0]

    def client() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.connect()
        start.wait()
        while time.perf_counter() < deadline[0] and not failures:
            with lock:
                body = next(turn)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            took = time.perf_counter() - began
            if response.status != 200:
                failures.append(f"{response.status}: {answer[:300]!r}")
            with lock:
                latencies.append(1000 * took)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    deadline[0] = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    if failures:
        raise RuntimeError(failures[0])
    return Load(len(latencies), elapsed, tuple(sorted(latencies)))

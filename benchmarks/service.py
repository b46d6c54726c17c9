"""A face server in a process of its own, as benchmarks and fault tests use it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

MODELS = Path("data/models")
"""Where ``make setup`` puts model files."""

_TICKS = os.sysconf("SC_CLK_TCK")
_START_S = 60.0
_ANSWER_S = 30.0
_LOG_LINES = 2000


@dataclass
class Service:
    """``face-server serve`` on a free port of loopback, with ``data`` as its folder. It keeps its port over restarts.

    ``start`` waits until it is ready, or with ``awaits_ready`` False until it answers at all.
    """

    data: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    models: Path = MODELS
    awaits_ready: bool = True
    port: int = 0
    log: list[str] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _client: httpx.Client | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start, and wait until it serves. Raises RuntimeError with what it printed if it does not."""
        models = self.data / "models"
        if not models.exists():
            models.symlink_to(self.models.resolve(strict=True))
        line = [sys.executable, "-m", "face_server", "serve", "--port", str(self.port), "--data", str(self.data), *self.arguments]
        own = {name: value for name, value in os.environ.items() if not name.startswith("FACE_SERVER_")}
        environment = {**own, **self.environment, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        assert self._process.stdout is not None
        for text in self._process.stdout:
            self.log.append(text)
            if found := re.search(r"serves on http://127\.0\.0\.1:(\d+)", text):
                self.port = int(found[1])
                break
        else:
            stdout = self._process.stdout
            self.kill()
            stdout.close()
            raise RuntimeError("the server did not start:\n" + "".join(self.log[-20:]))
        threading.Thread(target=self._drain, args=(self._process,), daemon=True).start()
        # Trusts nobody and so reads no certificates: everything is on loopback.
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=_ANSWER_S, verify=False, trust_env=False)
        path = "/readyz" if self.awaits_ready else "/healthz"
        self.wait_for(lambda: self.get(path) is not None, _START_S, "the server to be ready")
        return self

    def stop(self) -> int:
        """End politely, and return the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End without a word to anybody."""
        self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        os.kill(self.pid, number)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON behind a path."""
        return self._connection().get(path, params=params).raise_for_status().json()

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send JSON, and return the JSON of the answer (None where it has none)."""
        answer = self._connection().request(method, path, json=body)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json() if answer.content else None

    def status(self, stream_id: str) -> dict[str, Any]:
        """The status of a stream."""
        found: dict[str, Any] = self.get(f"/v1/streams/{stream_id}")["status"]
        return found

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The status of every stream."""
        return {one["id"]: one["status"] for one in self.get("/v1/streams")["streams"]}

    def cpu_s(self) -> float:
        """Processor seconds it has used, its children included."""
        total = 0.0
        for pid in (self.pid, *_children(self.pid)):
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            total += sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS
        return total

    def resources(self) -> tuple[float, int, int]:
        """Resident memory in MB, threads and open file descriptors."""
        status = Path(f"/proc/{self.pid}/status").read_text("utf-8")
        values = {name: value.split()[0] for name, _, value in (line.partition(":") for line in status.splitlines()) if value.strip()}
        return int(values["VmRSS"]) / 1024, int(values["Threads"]), len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, or over those that are not given."""
        text = self._connection().get("/metrics").raise_for_status().text
        lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{| )", line)]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))

    @staticmethod
    def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Wait until ``condition`` holds, and return for how long that was in seconds. Raises TimeoutError."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_s:
            try:
                if condition():
                    return time.monotonic() - started
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self.kill()

    def _connection(self) -> httpx.Client:
        if self._client is None:
            raise httpx.ConnectError("the server does not run")
        return self._client

    def _drain(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for text in lines:
                self.log.append(text)
                del self.log[:-_LOG_LINES]

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        client, self._client = self._client, None
        assert process is not None
        if client is not None:
            client.close()
        process.send_signal(how)
        # A frozen process hears SIGTERM only once it goes on.
        process.send_signal(signal.SIGCONT)
        try:
            return process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _children(pid: int) -> list[int]:
    """The processes that threads of a process have started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text("utf-8").split()]
        except OSError:
            continue
    return found

"""`/extract` over HTTP against bare sessions of the same backend on the same cores, in one run.

    python -m benchmarks.extract [--shared ../shared] [--data data] [--seconds 6] [--rounds 5] [--insightface PYTHON]

``--insightface`` names the interpreter of an environment that has the `insightface` package; its
row is left out otherwise. Every figure is a median over rounds in which the contenders take turns.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bare
from benchmarks.load import Load, drive
from face_server.models.weights import WeightsStore
from face_server.workers import available_cores

CLIENTS = 8
PICTURES = 200


@dataclass(frozen=True, slots=True)
class Stack:
    """A backend and the two networks it runs."""

    backend: str
    detector: str
    embedder: str

    def __str__(self) -> str:
        return f"{self.detector} + {self.embedder}, {self.backend}"


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one stack on one set of pictures; rates in pictures a second."""

    stack: Stack
    pictures: str
    bare: float
    http: float
    ratio: float
    bare_p50_ms: float
    http_p50_ms: float
    p50_ratio: float
    p99_ms: float
    lag_ms: float


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(stack: Stack, weights: Path, models_path: Path) -> Iterator[int]:
    """A real server process on loopback, in an empty data folder that shares the weights; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(weights.resolve())
        environment = os.environ | {
            "FACE_SERVER_INFERENCE__BACKEND": stack.backend,
            "FACE_SERVER_MODELS__DETECTOR": stack.detector,
            "FACE_SERVER_MODELS__EMBEDDER": stack.embedder,
            "FACE_SERVER_MODELS_PATH": str(models_path),
            "FACE_SERVER_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "face_server", "serve", "--port", str(port), "--data", folder]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until_ready(port, server)
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=20)


def wait_until_ready(port: int, server: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    """Poll /readyz. Raises RuntimeError when the server ends or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready")


def worst_lag_ms(port: int) -> float:
    """The event loop's worst lag since the last look, as the server itself measured it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith("face_server_event_loop_lag_seconds "):
                return 1000 * float(line.split()[1])
    raise RuntimeError("/metrics does not tell the event loop's lag")


def body(picture: bytes) -> bytes:
    """A request of an InsightFace-REST client for one picture."""
    return json.dumps({"images": {"data": [base64.b64encode(picture).decode()]}, "return_landmarks": True}).encode()


def measure(stack: Stack, name: str, pictures: Sequence[bytes], arguments: argparse.Namespace) -> Row:
    """Let bare sessions and the server take turns on the same pictures."""
    weights, models_path = arguments.data / "models", arguments.shared / "models"
    store = WeightsStore(weights, [models_path])
    networks = store.pull(stack.detector), store.pull(stack.embedder)
    pipelines = bare.onnx_pipelines if stack.backend == "onnx" else bare.openvino_pipelines
    runs = pipelines(store.entry(stack.detector), networks, available_cores())
    bodies = [body(picture) for picture in pictures]
    rates: list[tuple[float, Load]] = []
    singles: list[tuple[float, float]] = []
    with serving(stack, weights, models_path) as port:
        drive("127.0.0.1", port, "/extract", bodies, clients=CLIENTS, seconds=2)
        worst_lag_ms(port)
        for _ in range(arguments.rounds):
            bound = bare.throughput(runs, pictures, arguments.seconds)
            rates.append((bound, drive("127.0.0.1", port, "/extract", bodies, clients=CLIENTS, seconds=arguments.seconds)))
        lag = worst_lag_ms(port)
        for _ in range(arguments.rounds):
            alone = statistics.median(bare.latencies_ms(runs[0], pictures[:60]))
            singles.append((alone, drive("127.0.0.1", port, "/extract", bodies[:60], clients=1, seconds=2).percentile_ms(50)))
    return Row(
        stack,
        name,
        statistics.median(bound for bound, _ in rates),
        statistics.median(load.rate for _, load in rates),
        statistics.median(load.rate / bound for bound, load in rates),
        statistics.median(alone for alone, _ in singles),
        statistics.median(single for _, single in singles),
        statistics.median(single / alone for alone, single in singles),
        statistics.median(load.percentile_ms(99) for _, load in rates),
        lag,
    )


def insightface_rate(python: str, shared: Path, paths: Sequence[Path], seconds: float) -> float:
    """Pictures a second of the `insightface` package with one process a core."""
    script = Path(__file__).with_name("insightface_peer.py")
    models = [str((shared / "models" / name).resolve()) for name in ("scrfd_500m.onnx", "arcface_mobilefacenet.onnx")]
    command = [python, str(script), *models, str(available_cores()), str(seconds)]
    listing = "\n".join(str(path.resolve()) for path in paths)
    done = subprocess.run(command, input=listing, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| stack | pictures | bare sessions /s | /extract /s | ratio | bare p50 ms | /extract p50 ms | ratio | p99 ms | worst loop lag ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        rates = f"{row.bare:.1f} | {row.http:.1f} | **{row.ratio:.2f}**"
        singles = f"{row.bare_p50_ms:.1f} | {row.http_p50_ms:.1f} | **{row.p50_ratio:.2f}**"
        lines.append(f"| {row.stack} | {row.pictures} | {rates} | {singles} | {row.p99_ms:.0f} | {row.lag_ms:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every stack and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder whose models/ holds the weights")
    parser.add_argument("--seconds", type=float, default=6, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--insightface", metavar="PYTHON", help="interpreter with the insightface package")
    parser.add_argument("--stacks", nargs="*", help="only these, as detector+embedder+backend")
    arguments = parser.parse_args()
    lfw = sorted((arguments.shared / "data/lfw/images").rglob("*.jpg"))[:PICTURES]
    scenes = sorted((arguments.shared / "data/photos/scenes").iterdir())
    sets = {"LFW, one face": lfw, "scenes, 1–6 faces": scenes}
    stacks = [
        Stack(backend, *pair) for pair in (("yunet", "sface"), ("scrfd_500m", "arcface_mobilefacenet")) for backend in ("onnx", "openvino")
    ]
    chosen = [stack for stack in stacks if not arguments.stacks or f"{stack.detector}+{stack.embedder}+{stack.backend}" in arguments.stacks]
    rows = [measure(stack, name, [path.read_bytes() for path in paths], arguments) for stack in chosen for name, paths in sets.items()]
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()

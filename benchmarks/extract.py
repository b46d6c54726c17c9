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

import cv2
import numpy as np

from benchmarks import bare
from benchmarks.load import Load, drive
from benchmarks.report import machine, replace_section, table
from face_server.models.weights import WeightsStore
from face_server.workers import available_cores

CLIENTS = 8
PICTURES = 200
PEER_NETWORKS = ("scrfd_500m", "arcface_mobilefacenet")


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


def against_insightface(stacks: Sequence[Stack], name: str, paths: Sequence[Path], arguments: argparse.Namespace) -> list[list[str]]:
    """Rows of the package's rate and ours on the same networks, taking turns."""
    bodies = [body(path.read_bytes()) for path in paths]
    rows = []
    for stack in stacks:
        pairs = []
        with serving(stack, arguments.data / "models", arguments.shared / "models") as port:
            drive("127.0.0.1", port, "/extract", bodies, clients=CLIENTS, seconds=2)
            for _ in range(arguments.rounds):
                peer = insightface_rate(arguments.insightface, arguments.shared, paths, arguments.seconds)
                pairs.append((peer, drive("127.0.0.1", port, "/extract", bodies, clients=CLIENTS, seconds=arguments.seconds).rate))
        peer, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(ours / peer for peer, ours in pairs)
        rows.append([str(stack), name, f"{peer:.1f}", f"{ours:.1f}", f"**{ratio:.2f}**"])
    return rows


def enlarged(paths: Sequence[Path], folder: Path, side_px: int = 640) -> list[Path]:
    """Copies of square pictures at the size of the detector's canvas, so that both sides detect on equal pixels."""
    copies = []
    for path in paths:
        picture = cv2.imread(str(path))
        copy = folder / path.name
        cv2.imwrite(str(copy), cv2.resize(np.asarray(picture, np.uint8), (side_px, side_px), interpolation=cv2.INTER_CUBIC))
        copies.append(copy)
    return copies


def report(rows: Sequence[Row], peers: Sequence[Sequence[str]]) -> str:
    """The section of the page."""
    head = [
        "stack",
        "pictures",
        "bare sessions /s",
        "/extract /s",
        "ratio",
        "bare p50 ms",
        "/extract p50 ms",
        "ratio",
        "p99 ms",
        "loop lag ms",
    ]
    cells = [
        [
            str(row.stack),
            row.pictures,
            f"{row.bare:.1f}",
            f"{row.http:.1f}",
            f"**{row.ratio:.2f}**",
            f"{row.bare_p50_ms:.1f}",
            f"{row.http_p50_ms:.1f}",
            f"**{row.p50_ratio:.2f}**",
            f"{row.p99_ms:.0f}",
            f"{row.lag_ms:.1f}",
        ]
        for row in rows
    ]
    text = f"## Pictures over HTTP\n\n{_METHOD.format(machine=machine())}\n\n{table(head, cells)}\n"
    if peers:
        head = ["stack", "pictures", "insightface /s", "/extract /s", "ratio"]
        text += f"\n### Against the `insightface` package\n\n{_PEER_METHOD}\n\n{table(head, peers)}\n"
    return text


_METHOD = """`/extract` as an InsightFace-REST client calls it (one picture a request, base64 in JSON), 8 clients on
the same cores as the server, against a loop over bare sessions of the same prepared networks with decoding and alignment, one thread
a core. Medians of rounds in which both take turns. *p50*: one client, against one bare thread. *Loop lag*: the latest that the event
loop woke a sleeper during the loaded rounds. A request costs its client about 0.35 ms of a core and the event loop 1 ms, whatever the
networks: where they take 10 ms a picture, that is most of what the ratio lacks to 1. {machine}."""

_PEER_METHOD = """The package at its best setting (one process a core, one thread a session, decoding included, no HTTP) against our
server with HTTP. The package enlarges every picture to 640 × 640 before detection; we do not enlarge. On pictures that are 640 × 640
already both detect on equal pixels."""


def main() -> None:
    """Measure every stack and print the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder whose models/ holds the weights")
    parser.add_argument("--seconds", type=float, default=6, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--insightface", metavar="PYTHON", help="interpreter with the insightface package")
    parser.add_argument("--stacks", nargs="*", help="only these, as detector+embedder+backend")
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    arguments = parser.parse_args()
    lfw = sorted((arguments.shared / "data/lfw/images").rglob("*.jpg"))[:PICTURES]
    scenes = sorted((arguments.shared / "data/photos/scenes").iterdir())
    sets = {"LFW, one face": lfw, "scenes, 1–6 faces": scenes}
    stacks = [Stack(backend, *pair) for pair in (("yunet", "sface"), PEER_NETWORKS) for backend in ("onnx", "openvino")]
    chosen = [stack for stack in stacks if not arguments.stacks or f"{stack.detector}+{stack.embedder}+{stack.backend}" in arguments.stacks]
    rows = [measure(stack, name, [path.read_bytes() for path in paths], arguments) for stack in chosen for name, paths in sets.items()]
    peers: list[list[str]] = []
    if arguments.insightface:
        same = [stack for stack in chosen if (stack.detector, stack.embedder) == PEER_NETWORKS]
        with tempfile.TemporaryDirectory() as folder:
            peers += against_insightface(same, "LFW, 250 × 250", lfw, arguments)
            peers += against_insightface(same, "LFW, 640 × 640", enlarged(lfw[:100], Path(folder)), arguments)
    section = report(rows, peers)
    sys.stdout.write(section)
    if arguments.out:
        replace_section(arguments.out, "images", section)


if __name__ == "__main__":
    main()

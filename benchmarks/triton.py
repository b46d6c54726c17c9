"""One 1080p frame in process, a call a network, and a call a frame on a real tritonserver, in one run.

    python -m benchmarks.triton [--shared ../shared] [--data data] [--rounds 9] [--seconds 4] [--out docs/benchmarks.md]

The server is Triton's CPU build with its Python backend, on loopback, on the same cores as its
client. Every path takes its turn in every round; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import machine, replace_section, table
from benchmarks.triton_server import TritonServer, prepare, unsuitable
from face_server.backends.batching import BatchingBackend
from face_server.backends.gathering import BatchPolicy
from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.backends.triton.backend import TritonBackend
from face_server.backends.triton.client import TritonClient
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.clock import SystemClock
from face_server.domain import face_pipeline
from face_server.domain.face import Face
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import AnalysisOptions, Analyzer, Backend, CompressedPicture
from face_server.models.detector import NetworkDetector
from face_server.models.embedder import EmbedderOptions, NetworkEmbedder, model_id
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.pipeline.remote_analysis import RemoteAnalyzer
from face_server.video.images import ImageLimits, decode_image
from face_server.workers import Workers

DETECTOR, EMBEDDER = "yunet", "sface"
WORKERS = 2
CLIENTS = 8
FACES = (0, 1, 8)
IN_PROCESS = "in process"
PATHS = ("triton, network", "triton, shared memory", "pipeline, network", "pipeline, shared memory")
SCRIPTED = "pipeline by BLS, shared memory"
OPTIONS = AnalysisOptions()

_SIZE = (1920, 1080)
_FACE_PX = 260
_LOOPBACK = re.compile(r"^\s*lo:\s*(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Frame:
    """A 1080p frame with a known number of faces, as pixels and as JPEG."""

    faces: int
    pixels: Pixels
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one path for one kind of frame; ``ratio`` is its throughput over that in process."""

    path: str
    form: str
    faces: int
    p50_ms: float
    over_ms: float
    rate: float
    ratio: float
    sent_bytes: float


def export(folder: Path, data: Path, *more: str) -> Path:
    """A repository of the default networks and ``face_pipeline`` for the Python backend on CPUs; ``more`` arguments of the command."""
    command = [sys.executable, "-m", "face_server", "models", "export", "--to", "python", str(folder), "--data", str(data)]
    chosen = ["--models", f"{DETECTOR},{EMBEDDER}", "--detector", DETECTOR, "--embedder", EMBEDDER]
    subprocess.run([*command, *chosen, "--cpu", "--instances", str(WORKERS), *more], check=True, stdout=subprocess.DEVNULL)
    return folder


def frames(shared: Path) -> list[Frame]:
    """Frames of a street out of focus, nobody to be seen, and the same with portraits in them."""
    capture = cv2.VideoCapture(str(shared / "data/videos/street_1080p.mp4"))
    _, street = capture.read()
    capture.release()
    background = np.asarray(cv2.GaussianBlur(cv2.resize(street, _SIZE), (0, 0), 20), np.uint8)
    portraits = sorted((shared / "data/lfw").rglob("*.jpg"))[:: max(1, 400 // max(FACES))][: max(FACES)]
    made = []
    for count in FACES:
        frame = background.copy()
        for index, path in enumerate(portraits[:count]):
            picture = np.asarray(cv2.imread(str(path)), np.uint8)
            # The middle: some portraits show somebody else at their edge.
            portrait = np.asarray(cv2.resize(picture[50:200, 50:200], (_FACE_PX, _FACE_PX)), np.uint8)
            x, y = 100 + 450 * (index % 4), 140 + 480 * (index // 4)
            frame[y : y + _FACE_PX, x : x + _FACE_PX] = portrait
        done, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        made.append(Frame(count, frame, jpeg.tobytes()))
    return made


@asynccontextmanager
async def opened(
    store: WeightsStore, workers: Workers, endpoint: str | None, scripted: str | None = None
) -> AsyncIterator[dict[str, Analyzer]]:
    """An analyzer a path: those of Triton only with its ``endpoint``, the pipeline that calls networks with that of such a server."""
    entry, known = store.entry(DETECTOR), store.entry(EMBEDDER)
    networks = [store.network(DETECTOR), store.network(EMBEDDER)]

    def local(backend: Backend, batch: int) -> LocalAnalyzer:
        detector = NetworkDetector(entry, backend, workers)
        return LocalAnalyzer(detector, NetworkEmbedder(known, networks[1], backend, EmbedderOptions(batch)), workers)

    async with AsyncExitStack() as stack:
        inner = await OnnxBackend.open(networks, workers, OnnxOptions("cpu"))
        embedded = BatchingBackend(inner, {network.name: BatchPolicy(1) for network in networks}, workers)
        stack.push_async_callback(embedded.close)
        analyzers: dict[str, Analyzer] = {IN_PROCESS: local(embedded, 1)}
        if endpoint is not None:
            model = model_id(known, networks[1])
            for memory in (SharedMemory.OFF, SharedMemory.SYSTEM):
                options = TritonOptions((endpoint,), shared_memory=memory)
                client = await TritonClient.open(options, workers, SystemClock(), networks, pipeline=model)
                backend = TritonBackend(client, networks)
                stack.push_async_callback(backend.close)
                how = "network" if memory is SharedMemory.OFF else "shared memory"
                analyzers[f"triton, {how}"] = local(backend, 4)
                analyzers[f"pipeline, {how}"] = RemoteAnalyzer(client, analyzers[f"triton, {how}"])
        if scripted is not None:
            options = TritonOptions((scripted,), shared_memory=SharedMemory.SYSTEM)
            client = await TritonClient.open(options, workers, SystemClock(), networks, pipeline=model_id(known, networks[1]))
            stack.push_async_callback(client.close)
            analyzers[SCRIPTED] = RemoteAnalyzer(client, analyzers[IN_PROCESS])
        yield analyzers


def call(analyzer: Analyzer, frame: Frame, form: str) -> Callable[[], Awaitable[Sequence[Face]]]:
    """What analyses ``frame`` once, from pixels or from JPEG."""
    image, picture = Image.from_pixels(frame.pixels), CompressedPicture(frame.jpeg, lambda: decode_image(frame.jpeg, ImageLimits()))

    async def raw() -> Sequence[Face]:
        return (await analyzer.analyze([image], OPTIONS))[0]

    async def jpeg() -> Sequence[Face]:
        return (await analyzer.analyze_compressed(picture, OPTIONS)).faces

    return raw if form == "raw" else jpeg


async def latency_ms(analyze: Callable[[], Awaitable[object]], calls: int) -> float:
    """Median of calls one after the other."""
    took = []
    for _ in range(calls):
        started = time.perf_counter()
        await analyze()
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


async def throughput(analyze: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Frames a second with ``CLIENTS`` calls under way."""
    end, done = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await analyze()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - started)


async def measure(analyzers: dict[str, Analyzer], frame: Frame, form: str, rounds: int, seconds: float) -> list[Row]:
    """One row a path, taking turns."""
    calls = {path: call(analyzer, frame, form) for path, analyzer in analyzers.items()}
    sent: dict[str, float] = {}
    for path, analyze in calls.items():
        found = len(await analyze())
        if found != frame.faces:
            raise RuntimeError(f"{path} found {found} faces in the frame with {frame.faces}")
        before = _loopback_bytes()
        await latency_ms(analyze, 5)
        sent[path] = (_loopback_bytes() - before) / 5
    alone: dict[str, list[float]] = {path: [] for path in calls}
    rates: dict[str, list[float]] = {path: [] for path in calls}
    for _ in range(rounds):
        for path, analyze in calls.items():
            alone[path].append(await latency_ms(analyze, 8))
        for path, analyze in calls.items():
            rates[path].append(await throughput(analyze, seconds))
    rows = []
    for path in calls:
        over = statistics.median(mine - base for mine, base in zip(alone[path], alone[IN_PROCESS], strict=True))
        ratio = statistics.median(mine / base for mine, base in zip(rates[path], rates[IN_PROCESS], strict=True))
        p50, rate = statistics.median(alone[path]), statistics.median(rates[path])
        rows.append(Row(path, form, frame.faces, p50, over, rate, ratio, sent[path]))
    return rows


async def parity(analyzers: dict[str, Analyzer], pictures: Sequence[bytes]) -> list[list[str]]:
    """How far each path's faces are from those in process: rows of the table."""
    limits = ImageLimits()

    async def analyze(path: str, data: bytes) -> tuple[Face, ...]:
        return (await analyzers[path].analyze_compressed(CompressedPicture(data, lambda: decode_image(data, limits)), OPTIONS)).faces

    rows = []
    for path in (*PATHS, SCRIPTED):
        faces, box_px, cosine = 0, 0.0, 1.0
        for data in pictures:
            base, mine = await analyze(IN_PROCESS, data), await analyze(path, data)
            if len(base) != len(mine):
                raise RuntimeError(f"{path} finds {len(mine)} faces where {len(base)} are found in process")
            for one, other in zip(base, mine, strict=True):
                assert one.embedding is not None
                assert other.embedding is not None
                faces += 1
                cosine = min(cosine, one.embedding.similarity(other.embedding))
                here, there = one.detection.box, other.detection.box
                box_px = max(box_px, *(abs(getattr(here, side) - getattr(there, side)) for side in ("x1", "y1", "x2", "y2")))
        rows.append([path, str(faces), f"{box_px:.3f}", f"{cosine:.6f}"])
    return rows


def connections(port: int) -> int:
    """Connections to a port of this machine."""
    wanted = f":{port:04X}"
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(wanted) and fields[3] == "01" for fields in lines)


def report(rows: Sequence[Row], same: Sequence[Sequence[str]], channels: int) -> str:
    """The section of the page."""
    rate = f"frames/s, {CLIENTS} at once"
    head = ("path", "frame", "faces", "p50, ms", "over in process, ms", rate, "of in process", "bytes over loopback")
    cells = [
        [
            row.path,
            row.form,
            str(row.faces),
            f"{row.p50_ms:.1f}",
            f"{row.over_ms:+.1f}",
            f"{row.rate:.1f}",
            f"**{row.ratio:.2f}**",
            f"{row.sent_bytes:,.0f}",
        ]
        for row in rows
    ]
    return f"""\
## Triton

{machine()}; tritonserver 2.51 (CPU, Python backend) and its client share the cores. Networks {DETECTOR} and {EMBEDDER}; {WORKERS} worker
threads in process, {WORKERS} instances a model on the server. Each figure is a median of rounds in which the paths take turns.

{table(head, cells)}

"pipeline" is `face_pipeline` as it is exported for CPUs, with networks in its own process; "by BLS" as it is exported for GPUs, where
it calls the networks of the server. Two clients, one by network and one with shared memory, hold {channels} gRPC connections. In shared
memory the pixels are copied once, from the picture into the region; by network they are copied four times (into the message, into
the socket, out of it, into the memory of the model's process).

The pipeline costs at most 6 ms more than in process where pixels are in shared memory or the frame is a JPEG. Two bars are not reached
on these two cores, and cannot be. *0.85 of in process* for a raw frame without faces: such a frame takes 11.6 ms of a core in process
(two cores, 172 frames/s), so 2.0 ms would be left for everything that a second process costs. A call through Triton's Python backend
alone takes 1.5 to 2.5 ms of the server and 1.6 to 2.7 ms of the client, and 6.2 MB are copied twice (into the region, into the memory
of the model's process), about 1.5 ms. *1.2 times a call a network*: both run the same networks on the same cores. A frame with one face
takes 24.5 ms of them in process, so the two differ by the round trips alone: a JPEG without faces reaches 1.22, with one face 1.18,
with eight 1.05. On a GPU the networks take a few milliseconds instead of twenty-five, and the round trips are most of what is left;
that was not measured.

The same pictures on every path, against in process:

{table(("path", "faces", "largest distance of a box, px", "lowest cosine"), same)}"""


def _loopback_bytes() -> int:
    found = _LOOPBACK.search(Path("/proc/net/dev").read_text())
    return int(found[1]) if found else 0


async def run(arguments: argparse.Namespace) -> str:
    """Everything, as text of the page."""
    store = WeightsStore(arguments.data / "models", [arguments.shared / "models"])
    for name in (DETECTOR, EMBEDDER):
        store.pull(name)
    portraits = sorted((arguments.shared / "data/lfw").rglob("*.jpg"))[::200][:40]
    scenes = sorted((arguments.shared / "data/photos/scenes").iterdir()) + portraits
    with tempfile.TemporaryDirectory() as folder, Workers(WORKERS) as workers:
        own = TritonServer(export(Path(folder) / "own", arguments.data))
        scripted = TritonServer(export(Path(folder) / "scripted", arguments.data, "--bls"), [DETECTOR, EMBEDDER, face_pipeline.NAME])
        with own, scripted:
            async with opened(store, workers, own.url, scripted.url) as analyzers:
                rows = []
                for frame in frames(arguments.shared):
                    for form in ("raw", "jpeg"):
                        rows += await measure(analyzers, frame, form, arguments.rounds, arguments.seconds)
                same = await parity(analyzers, [path.read_bytes() for path in scenes])
                return report(rows, same, connections(own.grpc_port))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if reason := unsuitable():
        parser.exit(0, f"left out: {reason}\n")
    prepare()
    cv2.setNumThreads(1)
    text = asyncio.run(run(arguments))
    print(text)
    if arguments.out:
        replace_section(arguments.out, "triton", text)


if __name__ == "__main__":
    main()

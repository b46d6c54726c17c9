"""What cameras cost, how many this machine carries, and how fast trouble is noticed: ``python -m benchmarks.streams``."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cameras import CameraOptions, CameraStandIn
from benchmarks.report import machine, replace_section, table
from benchmarks.service import MODELS, Service

STREET, STAGE = "street_1080p.mp4", "stage_360p.mp4"
ANALYSED_FPS = 5
P95_S = 1.0

_DECODED = 0.97
_GROWTH_S = 0.2
_SETTLING_S = 8.0

_BARE = """
import sys, time, av
url, seconds = sys.argv[1], float(sys.argv[2])
container = av.open(url, options={"rtsp_transport": "tcp"}, timeout=5)
frames = container.decode(video=0)
next(frames)
wall, used, count = time.monotonic(), time.process_time(), 0
while time.monotonic() - wall < seconds:
    next(frames)
    count += 1
print((time.process_time() - used) / (time.monotonic() - wall), count / (time.monotonic() - wall))
"""


_CORNER = [[[0, 0], [0.01, 0], [0, 0.01]]]
_EMBEDDED = "face_server_inference_duration_seconds_count"
_LAG = "face_server_event_loop_lag_seconds"


@dataclass(frozen=True, slots=True)
class Where:
    """Folders of videos and of model files."""

    videos: Path
    models: Path


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of camera: what it plays and how."""

    name: str
    file: str
    options: CameraOptions


KINDS = (
    Kind("1080p25", STREET, CameraOptions(sizes=("1920x1080",), fps=25)),
    Kind("720p15", STREET, CameraOptions(sizes=("1280x720",), fps=15)),
    Kind("360p25", STAGE, CameraOptions(sizes=("640x360",), fps=25)),
)


@dataclass(frozen=True, slots=True)
class Carried:
    """How a number of streams went; each figure is that of the worst of them.

    ``decoded`` is the share of the camera's frames that were decoded: a reader that falls behind or
    skips ahead to catch up decodes less than what is sent. ``growth_s`` is how much the median
    latency of the last third of the time lies above that of the first.
    """

    streams: int
    analysed_fps: float
    decoded: float
    p95_s: float
    growth_s: float
    lag_ms: float
    cores: float

    @property
    def well(self) -> bool:
        """Whether every stream kept its rate and its latency, and none fell behind."""
        kept = self.analysed_fps >= 0.9 * ANALYSED_FPS and self.p95_s <= P95_S
        return kept and self.decoded >= _DECODED and self.growth_s <= _GROWTH_S


@contextmanager
def _server(models: Path) -> Iterator[Service]:
    more = {"FACE_SERVER_STREAMS__MAX_STREAMS": "256"}
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder), environment=more, models=models) as server:
        yield server


def _register(server: Service, stream_id: str, url: str) -> None:
    server.send("POST", "/v1/streams", {"id": stream_id, "url": url, "rules": {"max_fps": ANALYSED_FPS}})


def cost(where: Where, seconds: float) -> list[list[str]]:
    """Processor time of one camera of each kind, in ms a second of video, beside bare decoding of the same camera."""
    rows = []
    for kind in KINDS:
        with CameraStandIn(where.videos / kind.file, kind.options) as camera:
            line = [sys.executable, "-c", _BARE, camera.url, str(seconds)]
            bare = [1000 * float(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[0]) for _ in range(2)]
            with _server(where.models) as server:
                time.sleep(2)
                idle = _cpu_ms(server, seconds / 2)
                _register(server, "one", camera.url)
                server.wait_for(lambda: server.status("one")["analysed"] > 3 * ANALYSED_FPS, 30, "the stream to run")
                embedded = server.metric(_EMBEDDED, network="sface", stage="run")
                ours = _cpu_ms(server, seconds)
                embedded = (server.metric(_EMBEDDED, network="sface", stage="run") - embedded) / seconds
                status = server.status("one")
                server.send("PATCH", "/v1/streams/one", {"rules": {"regions": _CORNER}})
                time.sleep(2)
                nobody = _cpu_ms(server, seconds)
        base = statistics.median(bare)
        figures = [f"{idle:.0f}", f"{base:.0f}", f"{nobody:.0f} ({nobody / base:.1f} ×)", f"{ours:.0f} ({ours / base:.1f} ×)"]
        rows.append([kind.name, *figures, f"{embedded:.1f}", f"{status['analysed_fps']:.1f}", f"{1000 * status['latency_s']:.0f}"])
    return rows


def _cpu_ms(server: Service, seconds: float) -> float:
    began, used = time.monotonic(), server.cpu_s()
    time.sleep(seconds)
    return 1000 * (server.cpu_s() - used) / (time.monotonic() - began)


def capacity(kind: Kind, where: Where, seconds: float, step: int) -> list[Carried]:
    """Add ``step`` streams at a time until one does not keep up; the last entry is the first that failed."""
    steps: list[Carried] = []
    with ExitStack() as stack:
        camera = stack.enter_context(CameraStandIn(where.videos / kind.file, kind.options))
        server = stack.enter_context(_server(where.models))
        while not steps or steps[-1].well:
            registered = steps[-1].streams if steps else 0
            for number in range(registered, registered + step):
                _register(server, f"{kind.name}-{number}", camera.url)
            time.sleep(_SETTLING_S)
            steps.append(_carried(server, kind.options.fps, seconds))
            print(kind.name, steps[-1], file=sys.stderr, flush=True)
    return steps


def _carried(server: Service, sent_fps: float, seconds: float) -> Carried:
    server.metric(_LAG)
    before = server.statuses()
    began, used = time.monotonic(), server.cpu_s()
    latencies = []
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(min(1.0, seconds - passed))
        latencies.append(max(_known(one["latency_s"]) for one in server.statuses().values()))
    took, cpu = time.monotonic() - began, server.cpu_s() - used
    after = server.statuses()
    third = max(1, len(latencies) // 3)
    return Carried(
        streams=len(after),
        analysed_fps=min(after[one]["analysed"] - before[one]["analysed"] for one in before) / took,
        decoded=min(after[one]["decoded"] - before[one]["decoded"] for one in before) / took / sent_fps,
        p95_s=max(_known(one["latency_p95_s"]) for one in after.values()),
        growth_s=statistics.median(latencies[-third:]) - statistics.median(latencies[:third]),
        lag_ms=1000 * server.metric(_LAG),
        cores=cpu / took,
    )


def _known(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def noticing(where: Where, rounds: int) -> list[list[str]]:
    """Seconds until a dead camera is noticed, and until it is analysed again after it returned."""
    trouble: list[tuple[str, Callable[[CameraStandIn], None], Callable[[CameraStandIn], object]]] = [
        ("killed", CameraStandIn.kill, CameraStandIn.start),
        ("frozen (SIGSTOP)", CameraStandIn.freeze, CameraStandIn.thaw),
        ("connected but silent", CameraStandIn.silence, CameraStandIn.speak),
    ]
    rows = []
    with CameraStandIn(where.videos / STAGE) as camera, _server(where.models) as server:
        _register(server, "one", camera.url)
        for name, break_it, mend_it in trouble:
            noticed, back = [], []
            for _ in range(rounds):
                server.wait_for(lambda: server.status("one")["state"] == "running", 60, "the stream to run")
                time.sleep(3)
                break_it(camera)
                noticed.append(server.wait_for(lambda: server.status("one")["state"] != "running", 30, f"{name} to be noticed"))
                time.sleep(4)
                seen = server.status("one")["analysed"]
                mend_it(camera)
                back.append(_wait_for_analysis(server, seen + 3))
            rows.append(
                [name, f"{statistics.median(noticed):.1f}", f"{max(noticed):.1f}", f"{statistics.median(back):.1f}", f"{max(back):.1f}"]
            )
    return rows


def _wait_for_analysis(server: Service, analysed: int) -> float:
    return server.wait_for(lambda: server.status("one")["analysed"] >= analysed, 60, "the stream to be back")


def _page(where: Where, seconds: float, rounds: int) -> str:
    head = ["camera", "no camera", "bare PyAV", "nobody counts", "everybody", "embeddings/s", "analysed fps", "latency, ms"]
    costs = table(head, cost(where, seconds))
    carried = []
    for kind, step in zip(KINDS, (1, 2, 4), strict=True):
        steps = capacity(kind, where, seconds, step)
        best = max((one for one in steps if one.well), key=lambda one: one.streams, default=steps[0])
        carried.append(
            [
                kind.name,
                str(best.streams if best.well else 0),
                f"{best.analysed_fps:.1f}",
                f"{best.p95_s:.2f}",
                f"{best.lag_ms:.0f}",
                f"{best.cores:.2f}",
            ]
        )
    sustained = table(["camera", "streams", "slowest analysed fps", "worst p95, s", "worst loop lag, ms", "cores used"], carried)
    noticed = table(["camera is", "noticed, s", "worst", "analysed again after its return, s", "worst"], noticing(where, rounds))
    return f"""
## Cameras

Measured on {machine()}, which also play the cameras (RTSP over TCP on loopback, 2 % of a core each).

**One camera, {ANALYSED_FPS} analysed frames a second.** Processor time in ms a second of video: of a loop that
only decodes with PyAV, of the service while all faces lie outside of its regions (decoding, scaling and detection), and while it follows
and embeds everybody who passes (the crowd of the street is new to it every four seconds, when the film begins anew). Latency is the
median from capture to decision.

{costs}

**How many.** Streams are added until one of them falls below {0.9 * ANALYSED_FPS:.1f} analysed frames a second,
its p95 from capture to decision exceeds {P95_S:.0f} s, its latency grows by more than {_GROWTH_S:.1f} s,
or less than {100 * _DECODED:.0f} % of the frames that its camera sends are decoded.

{sustained}

**Trouble.** From the fault to the status that says so, and from the camera's return to the third analysed frame.

{noticed}
"""


def main() -> None:
    """Measure, and print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    page = _page(Where(chosen.videos, chosen.models), chosen.seconds, chosen.rounds)
    if chosen.out:
        replace_section(chosen.out, "streams", page)
    print(page)


if __name__ == "__main__":
    main()

"""An hour with eight cameras: memory, threads and file descriptors must stay flat. ``python -m benchmarks.soak [--minutes 60]``."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.cameras import CameraStandIn
from benchmarks.service import MODELS, Service

VIDEOS = ("stage_360p.mp4", "street_1080p.mp4")
STREAMS = 8
_SAMPLES = 60
_BACK_S = 10.0

# Caches, pools and the journal's page cache fill in the first part of the run.
_WARM_UP_SHARE = 0.25
_MEMORY_GROWTH_MB = 24.0
_COUNT_GROWTH = 3


def flat(values: Sequence[float], allowed: float) -> bool:
    """Whether the second half of what was sampled after the warm-up lies at most ``allowed`` above its first half."""
    warm = values[int(len(values) * _WARM_UP_SHARE) :]
    half = len(warm) // 2
    return statistics.median(warm[half:]) - statistics.median(warm[:half]) <= allowed


def soak(videos: Path, models: Path, minutes: float) -> bool:
    """Run, print a line a sample, and say whether everything stayed flat and every stream ran to the end."""
    samples: list[tuple[float, int, int]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cameras = [stack.enter_context(CameraStandIn(videos / VIDEOS[number % len(VIDEOS)])) for number in range(STREAMS)]
        server = stack.enter_context(Service(Path(folder), models=models))
        for number, camera in enumerate(cameras):
            rules = {"max_fps": 2, "absence_s": 1, "realert_on_return": True}
            server.send("POST", "/v1/streams", {"id": f"camera-{number}", "url": camera.url, "rules": rules})
        began = time.monotonic()
        for number in range(1, _SAMPLES + 1):
            time.sleep(max(0.0, began + number * minutes * 60 / _SAMPLES - time.monotonic()))
            if number % 10 == 0:
                # A camera that goes away and comes back leaves nothing behind.
                cameras[number // 10 % STREAMS].restart()
            samples.append(server.resources())
            memory, threads, descriptors = samples[-1]
            print(
                f"{(time.monotonic() - began) / 60:6.1f} min  {memory:7.1f} MB  {threads:4d} threads  {descriptors:4d} descriptors",
                flush=True,
            )
        with suppress(TimeoutError):
            # The last camera was restarted a moment ago.
            server.wait_for(lambda: {one["state"] for one in server.statuses().values()} == {"running"}, _BACK_S, "all streams to run")
        states = [one["state"] for one in server.statuses().values()]
        events = len(server.get("/v1/events", limit=1000)["events"])
    print(f"states at the end: {', '.join(states)}; events on the last page: {events}")
    memory_flat = flat([one[0] for one in samples], _MEMORY_GROWTH_MB)
    counts_flat = all(flat([one[column] for one in samples], _COUNT_GROWTH) for column in (1, 2))
    print(f"memory {'flat' if memory_flat else 'GROWS'}, threads and descriptors {'flat' if counts_flat else 'GROW'}")
    return memory_flat and counts_flat and set(states) == {"running"} and events > 0


def main() -> None:
    """Exit with 1 when something grew or a stream did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--minutes", type=float, default=60.0)
    chosen = parser.parse_args()
    sys.exit(0 if soak(chosen.videos, chosen.models, chosen.minutes) else 1)


if __name__ == "__main__":
    main()

"""Every benchmark, one after the other, into docs/benchmarks.md: ``python -m benchmarks [--insightface PYTHON]``."""

from __future__ import annotations

import subprocess
import sys

PAGE = "docs/benchmarks.md"


def main() -> None:
    """Run each benchmark in a process of its own, so that none warms or burdens the next."""
    runs = [
        ["benchmarks.extract", "--out", PAGE, *sys.argv[1:]],
        ["benchmarks.search", "--out", PAGE],
        ["benchmarks.streams", "--out", PAGE],
        ["benchmarks.faults", "--out", PAGE],
        ["benchmarks.triton", "--out", PAGE],
        ["benchmarks.redis", "--out", PAGE],
        ["benchmarks.redis_faults", "--out", PAGE],
        ["benchmarks.wider", "--out", PAGE],
        ["benchmarks.accuracy", "--out", PAGE, "--roc", "docs/assets/lfw-roc.png"],
    ]
    for run in runs:
        subprocess.run([sys.executable, "-m", *run], check=True)


if __name__ == "__main__":
    main()

"""`make redis-demo` as a user runs it, without files of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.redis_server import missing
from face_server.models.weights import WeightsStore

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_demonstration(weights: WeightsStore) -> None:
    """What one server learns the other knows; the camera of one that is killed runs on the other, and no event is missing."""
    if reason := missing():
        pytest.skip(f"needs Redis: {reason}")
    command = [sys.executable, "-m", "benchmarks.redis_demo", "--once", "--data", str(weights.folder.parent)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert re.search(r"the second names Ada Lovelace \(1\.00\)", told)
    assert re.search(r"person seen Ada Lovelace .* kill -9 .* the camera runs on \S+, the second, after \d\.\d s .*person seen Ada", told)
    assert "; 0 missing" in told


def test_without_redis_it_says_how_to_get_it(tmp_path: Path) -> None:
    """One sentence, and no trace back."""
    command = [sys.executable, "-m", "benchmarks.redis_demo", "--once"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr
    assert "Traceback" not in done.stderr

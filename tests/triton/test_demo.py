"""`make triton-demo` as a user runs it, without files of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.triton_server import missing
from face_server.models.weights import WeightsStore

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_demonstration(weights: WeightsStore) -> None:
    """A real tritonserver has the exported models; a picture and a camera are answered through it, /info says so, Triton has counted."""
    if reason := missing():
        pytest.skip(f"needs tritonserver: {reason}")
    command = [sys.executable, "-m", "benchmarks.triton_demo", "--once", "--data", str(weights.folder.parent)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert "face_pipeline READY" in told
    assert "/v1/info says: triton" in told
    assert "/info says: triton" in told
    assert "a face at" in told
    assert " seen " in told
    assert 'nv_inference_request_success{model="face_pipeline",version="1"}' in told

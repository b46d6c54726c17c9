"""The survey: right numbers from known delays, and a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from face_server.backends.onnx import OnnxOptions
from face_server.backends.scripted import ScriptedBackend
from face_server.backends.survey import natural_noise, open_candidates, survey, survey_inputs, verdict
from face_server.domain.network import Network, TensorSpec
from face_server.models.weights import WeightsStore
from face_server.workers import Workers


def network(name: str) -> Network:
    """A network that exists on paper only."""
    return Network(name, Path("nowhere.onnx"), (TensorSpec("pictures", "uint8", (None, None, None, 3)),), ())


async def test_ranks_by_speed() -> None:
    """The backend with the shorter delays comes first, with its rates and its lead."""
    answer = {"values": np.zeros((1, 1), np.float32)}
    answers = {"detect": answer, "embed": answer}
    fast, slow = ScriptedBackend(answers, delay_s=0.01), ScriptedBackend(answers, delay_s=0.04)
    networks = [network("detect"), network("embed")]
    rows = await survey({"slow": slow, "fast": fast}, networks, concurrency=2, seconds=0.8, size_px=64)
    assert [row.backend for row in rows] == ["fast", "slow"]
    # Two callers and 10 ms a call are 200 calls a second of one network, or 100 of both; a busy machine makes fewer.
    assert 80 < rows[0].rates["detect"] <= 202
    assert 40 < rows[0].passes_per_s <= 101
    assert 2 < rows[0].ratio < 8
    assert rows[1].ratio == 1.0
    assert verdict(rows).startswith("fast is fastest here: ")
    assert verdict(rows).endswith(" × slow")
    assert verdict(rows[:1]) == "fast is the only backend installed"


def test_inputs_resemble_photos() -> None:
    """Inputs fit the network and have structure: neighbours are alike, the whole uses the range."""
    tensor = survey_inputs(network("detect"), 320)["pictures"]
    assert tensor.shape == (1, 320, 320, 3)
    assert tensor.dtype == np.uint8
    picture = natural_noise(100, 140).astype(np.float32)
    assert picture.shape == (100, 140, 3)
    assert 40 < picture.std() < 60
    assert np.abs(np.diff(picture, axis=1)).mean() < 0.5 * picture.std()


async def test_real_backends(weights: WeightsStore, workers: Workers) -> None:
    """The installed backends run the default networks and are told apart."""
    networks = [weights.network("yunet"), weights.network("sface")]
    candidates = await open_candidates(networks, workers, OnnxOptions(provider="cpu"))
    rows = await survey(candidates, networks, concurrency=workers.threads, seconds=0.4, size_px=160)
    assert {row.backend for row in rows} == {"onnx", "openvino"}
    assert rows[0].ratio >= rows[1].ratio == 1.0
    assert all(rate > 1 for row in rows for rate in row.rates.values())
    for backend in candidates.values():
        await backend.close()

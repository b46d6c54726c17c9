"""A real tritonserver with the pipelines, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.triton_server import TritonServer, missing
from face_server.models.embedder import model_id
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.workers import Workers

from .asking import Asker, in_process
from .repositories import align_models, pipeline_models

MAX_PIXELS = 20_000_000
MAX_BYTES = 10_000_000


@pytest.fixture(scope="session")
def pipelines(weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The pipelines over YuNet and SFace, two instances each, and the ensemble for fixed frames of 640×384."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("pipelines")
    limits = {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS, "max_seconds": 30, "max_frames": 300, "max_answer_bytes": 1_000_000}
    pipeline_models(folder, weights, "yunet", "sface", embed_batch=4, **limits)
    align_models(folder, weights, "yunet", "sface", (640, 384))
    with TritonServer(folder, sorted(model.name for model in folder.iterdir())) as server:
        yield server


@pytest_asyncio.fixture
async def ask(pipelines: TritonServer, weights: WeightsStore) -> AsyncIterator[Asker]:
    """Asks ``pipelines``."""
    async with Asker(pipelines.url, model_id(weights.entry("sface"), weights.network("sface"))) as asker:
        yield asker


@pytest.fixture
def here(weights: WeightsStore, workers: Workers) -> Iterator[LocalAnalyzer]:
    """YuNet and SFace in this process."""
    with in_process(weights, "yunet", "sface", workers) as analyzer:
        yield analyzer


@pytest.fixture
def photos(shared: Path) -> Path:
    """The folder of photos of people and scenes."""
    return shared / "data" / "photos"

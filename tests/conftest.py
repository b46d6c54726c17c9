"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from face_server.errors import WeightsError
from face_server.models.catalog import CATALOG, READY_DEFAULTS
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data and test-only weights that lies beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the test data in ../shared, which is not there")
    return folder


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A small pool of worker threads, closed after the test."""
    with Workers(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def weights() -> WeightsStore:
    """Real weights, kept between runs: the defaults, and the test-only ones of ../shared where they are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    store = WeightsStore(cache / "face_server" / "models", [REPOSITORY.parent / "shared" / "models"])
    try:
        for name in READY_DEFAULTS:
            store.pull(name)
    except WeightsError as error:
        pytest.skip(f"needs the default weights: {error}")
    return store


@pytest.fixture(scope="session")
def all_weights(weights: WeightsStore, shared: Path) -> WeightsStore:
    """``weights`` with every network of the catalogue ready."""
    for name in CATALOG:
        weights.pull(name)
    return weights

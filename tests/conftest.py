"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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

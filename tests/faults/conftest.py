"""A service with cameras and a receiver, for the fault suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cameras import missing
from benchmarks.site import Site, open_site
from face_server.models.weights import WeightsStore


@pytest.fixture(scope="session")
def needs_cameras() -> None:
    """Skips where no camera can be made."""
    if reason := missing():
        pytest.skip(f"needs GStreamer's RTSP server: {reason}")


@pytest.fixture(scope="session")
def models(weights: WeightsStore) -> Path:
    """Folder of the default networks."""
    return weights.folder


@pytest.fixture(scope="session")
def site(needs_cameras: None, videos: Path, models: Path) -> Iterator[Site]:
    """A service with two cameras and a webhook receiver."""
    with open_site(videos, models=models) as opened:
        yield opened

"""The use cases over real weights and a fresh gallery a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.watched import open_parts
from face_server.api.services import Services
from face_server.app import open_services
from face_server.models.weights import WeightsStore
from face_server.settings import Settings

from .watching_parts import Watch


@pytest_asyncio.fixture
async def services(weights: WeightsStore, tmp_path: Path) -> AsyncIterator[Services]:
    """Everything, opened as the application opens it."""
    (tmp_path / "models").symlink_to(weights.folder)
    async with open_services(Settings(data=tmp_path)) as opened:
        yield opened


@pytest.fixture
def photos(shared: Path) -> Path:
    """The folder of photos of people and scenes."""
    return shared / "data" / "photos"


@pytest_asyncio.fixture
async def watch(weights: WeightsStore, shared: Path, tmp_path: Path) -> AsyncIterator[Watch]:
    """Parts of watchers over real networks, nobody enrolled yet."""
    async with open_parts(weights, tmp_path) as parts:
        yield Watch(parts, shared / "data")

"""The whole application over real weights, a fresh gallery a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from face_server.api.services import Services
from face_server.app import create_app
from face_server.models.weights import WeightsStore
from face_server.settings import Settings


@pytest.fixture(scope="module")
def data(weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with nothing but the weights in it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "models").symlink_to(weights.folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(data: Path) -> AsyncIterator[FastAPI]:
    """The application with its lifespan entered."""
    app = create_app(Settings(data=data))
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``app``, in the process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(app: FastAPI) -> Services:
    """What ``app`` works with."""
    services: Services = app.state.services
    return services


@pytest.fixture(scope="module")
def people(shared: Path) -> Path:
    """Photos of people, one folder a person."""
    return shared / "data" / "photos" / "people"


@pytest.fixture(scope="module")
def scenes(shared: Path) -> Path:
    """Photos with several faces."""
    return shared / "data" / "photos" / "scenes"


@pytest.fixture(scope="module")
def biden(people: Path) -> bytes:
    """A photo of one person."""
    return (people / "biden" / "biden.jpg").read_bytes()


@pytest.fixture(scope="module")
def two_people(scenes: Path) -> bytes:
    """A photo of two people."""
    return (scenes / "two_people.jpg").read_bytes()

"""The whole application over real weights, a fresh gallery a module."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from face_server.api.services import Cameras, Services
from face_server.app import create_app
from face_server.models.weights import WeightsStore
from face_server.settings import Settings
from face_server.video.demo_camera import DemoCamera


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cameras(app: FastAPI) -> Cameras:
    """The streams of ``app``, and what they report."""
    cameras: Cameras = app.state.cameras
    return cameras


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(app: FastAPI) -> AsyncIterator[str]:
    """``app`` behind a real server, whose ``http://host:port`` this is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live_url(shared: Path) -> AsyncIterator[str]:
    """Where a camera shows stage_360p.mp4 for ever."""
    camera = DemoCamera(shared / "data" / "videos" / "stage_360p.mp4")
    await camera.start()
    yield camera.url
    await camera.stop()


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


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application of its own."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client

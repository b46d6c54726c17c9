"""What every test may use."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cameras import CameraOptions, CameraStandIn, missing
from face_server.cli import run
from face_server.errors import WeightsError
from face_server.models.catalog import CATALOG, READY_DEFAULTS
from face_server.models.export.mtcnn import STAGES, stage_graph
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


@pytest.fixture(scope="session")
def videos(shared: Path) -> Path:
    """Video files: street_1080p.mp4, stage_360p.mp4 and others."""
    return shared / "data" / "videos"


@pytest.fixture
def start_camera(videos: Path) -> Iterator[Callable[..., CameraStandIn]]:
    """Starts RTSP cameras that play a file of ``videos`` for ever; they end with the test.

    ``start_camera("stage_360p.mp4", sizes=("320x180",), password="…")``: fields of CameraOptions.
    """
    if reason := missing():
        pytest.skip(f"needs GStreamer's RTSP server: {reason}")
    with contextlib.ExitStack() as stack:

        def start(name: str = "stage_360p.mp4", **options: Any) -> CameraStandIn:
            return stack.enter_context(CameraStandIn(videos / name, CameraOptions(**options)))

        yield start


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


@pytest.fixture(scope="session")
def mtcnn_weights(weights: WeightsStore) -> WeightsStore:
    """``weights`` with the published networks of MTCNN in its folder ``mtcnn``."""
    try:
        for stage in STAGES:
            stage_graph(stage, weights.folder / "mtcnn", weights.search_paths)
    except WeightsError as error:
        pytest.skip(f"needs the weights of MTCNN: {error}")
    return weights


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for programs."""
        return json.loads(self.out)


class Command:
    """``face-server``, without the settings of whoever runs the tests."""

    def line(self, *arguments: object) -> list[str]:
        """The command line of the installed script."""
        return [str(Path(sys.executable).with_name("face-server")), *map(str, arguments)]

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment, with ``variables``."""
        return {name: value for name, value in os.environ.items() if not name.startswith("FACE_SERVER_")} | variables

    def __call__(self, *arguments: object, **variables: str) -> Ended:
        """Run it to its end in this process, which saves a second of imports."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name in os.environ.keys() - self.environment().keys():
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            code = run([str(argument) for argument in arguments])
        return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def face_server() -> Command:
    """The installed command."""
    return Command()


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory, weights: WeightsStore) -> Callable[[], Path]:
    """Makes data folders with the default networks in place."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("data")
        (folder / "models").symlink_to(weights.folder)
        return folder

    return make


@pytest.fixture
def data(make_data: Callable[[], Path]) -> Path:
    """An empty data folder with the default networks in place."""
    return make_data()


@dataclass(frozen=True)
class Served:
    """A server process, the address that it printed, and all of its greeting."""

    process: subprocess.Popen[str]
    address: str
    welcome: str


@pytest.fixture
def server_with(data: Path, face_server: Command) -> Iterator[Callable[..., Served]]:
    """Starts ``face-server serve`` on a free port with ``data`` as its folder, and more options; ended after the test."""
    with contextlib.ExitStack() as stack:

        def serve(*options: str) -> Served:
            line = face_server.line("serve", "--port", "0", "--data", data, *options)
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=face_server.environment()))
            stack.callback(process.kill)
            assert process.stdout is not None
            # Line by line to the last one: what is read ahead of it would be lost to ``communicate``.
            lines = []
            for printed in process.stdout:
                lines.append(printed)
                if printed.startswith("  embedder"):
                    break
            welcome = "".join(lines)
            address = re.search(r"http://127\.0\.0\.1:\d+", welcome)
            if address is None:
                process.kill()
                pytest.fail(f"the server did not start: {welcome}{process.communicate()[1]}")
            return Served(process, address.group(), welcome)

        yield serve


@pytest.fixture
def server(server_with: Callable[..., Served]) -> Served:
    """A server without further options."""
    return server_with()

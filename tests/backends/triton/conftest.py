"""Small models for a real tritonserver, servers for them, and clients that end with the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.triton_server import TritonServer, missing
from face_server.backends.triton.client import TritonClient
from face_server.backends.triton.options import TritonOptions
from face_server.clock import SystemClock
from face_server.domain.network import Network, TensorSpec
from face_server.models.export.config import Instances, ModelConfig
from face_server.workers import Workers

ROWS = TensorSpec("rows", "uint8", (None,))
SUMS = TensorSpec("sums", "float32", (1,))

_CODE = """
import json, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.log = Path(args["model_repository"]) / "seen"

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "rows").as_numpy()
        {body}
        sums = rows.astype(np.float32).sum(axis=1, keepdims=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor("sums", sums)])

    def refuse(self, text, code):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
"""

BODIES = {
    "sum": "",
    "slow": "time.sleep(rows[0, 0] / 100)",
    "failing": 'raise ValueError("boom\\nat line 7")',
    "headers": "self.log.write_text(request.parameters())",
    "patient": """
        with self.log.open("a") as log:
            log.write(f"{rows[0, 0]} {request.is_cancelled()}\\n")
        until = time.monotonic() + 3.0
        while time.monotonic() < until and not request.is_cancelled():
            time.sleep(0.02)
        with self.log.open("a") as log:
            log.write(f"{rows[0, 0]} {request.is_cancelled()}\\n")
    """,
}
"""What the models do before they add up each row; ``slow`` takes as many hundredths of a second as the first value says."""


@dataclass
class Repository:
    """A model repository that tests write models into."""

    folder: Path
    networks: dict[str, Network] = field(default_factory=dict)

    def add(
        self,
        name: str,
        body: str | None = None,
        *,
        max_batch: int = 4,
        digest: str = "",
        instances: int = 1,
        inputs: Sequence[TensorSpec] = (ROWS,),
        outputs: Sequence[TensorSpec] = (SUMS,),
        extra: str = "",
    ) -> Network:
        """Write a model; the network that describes it as ``sum`` is described."""
        model = self.folder / name
        (model / "1").mkdir(parents=True, exist_ok=True)
        parameters = {"weights_sha256": digest} if digest else {}
        config = ModelConfig(name, "python", max_batch, inputs, outputs, instances=Instances("KIND_CPU", instances), parameters=parameters)
        (model / "config.pbtxt").write_text(config.text() + extra)
        (model / "1" / "model.py").write_text(_CODE.format(body=BODIES[name] if body is None else body))
        self.networks[name] = Network(name, Path(f"{name}.onnx"), (_batched(ROWS),), (_batched(SUMS),), digest)
        return self.networks[name]

    def seen(self, name: str) -> str:
        """What the model ``name`` wrote down."""
        file = self.folder / name / "seen"
        return file.read_text() if file.exists() else ""


def _batched(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, (None, *spec.shape))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    return Repository(folder)


@pytest.fixture(scope="session")
def make_repository() -> type[Repository]:
    """Makes repositories in other folders."""
    return Repository


@pytest.fixture
def serve() -> Iterator[Callable[..., TritonServer]]:
    """Starts a server for this test alone: ``serve(repository, "sum", "slow")``, with more fields of TritonServer by name."""
    if reason := missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:

        def serve(repository: Repository, *models: str, **fields: Any) -> TritonServer:
            server = TritonServer(repository.folder, models=list(models), **fields)
            stack.push(server.__exit__)
            return server.start()

        yield serve


@dataclass(frozen=True)
class Shop:
    """A server that tests share, its repository, and its models as networks."""

    server: TritonServer
    repository: Repository

    @property
    def url(self) -> str:
        """host:port."""
        return self.server.url

    def networks(self, *names: str) -> list[Network]:
        """Models by name."""
        return [self.repository.networks[name] for name in names]


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One server with every model of ``BODIES``; no test harms it."""
    if reason := missing():
        pytest.skip(reason)
    repository = Repository(tmp_path_factory.mktemp("shop"))
    for name in BODIES:
        repository.add(name, instances=2 if name == "sum" else 1)
    with TritonServer(repository.folder, arguments=("--grpc-header-forward-pattern=.*",)) as server:
        yield Shop(server, repository)


OpenClient = Callable[..., Any]


@pytest.fixture
async def open_client(workers: Workers) -> AsyncIterator[OpenClient]:
    """Opens clients of the addresses it is given, with networks, pipeline and options by name; they end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_client(*urls: str, networks: Sequence[Network] = (), pipeline: Any = None, **options: Any) -> TritonClient:
            chosen = TritonOptions(urls, **{"timeout_s": 5.0, "connect_timeout_s": 1.0, "probe_interval_s": 0.3, "pause_s": 0.2, **options})
            client = await TritonClient.open(chosen, workers, SystemClock(), networks, pipeline=pipeline)
            stack.push_async_callback(client.close)
            return client

        yield open_client


@pytest.fixture
def rows() -> Callable[..., dict[str, NDArray[np.uint8]]]:
    """Inputs: ``rows(1, 2, 3)`` is one row of these values, ``rows(5, count=2, width=100)`` two long rows that begin with 5."""

    def rows(*values: int, count: int = 1, width: int = 0) -> dict[str, NDArray[np.uint8]]:
        row = np.zeros(max(width, len(values)), np.uint8)
        row[: len(values)] = values
        return {"rows": np.tile(row, (count, 1))}

    return rows


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds, for five seconds at most."""

    async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            # What changes is in another process or thread: nobody could set an event.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    return until

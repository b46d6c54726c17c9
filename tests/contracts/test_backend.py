"""What every Backend promises, checked on all of them with small networks and with real weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import onnx
import pytest
from blockbuster import blockbuster_ctx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.triton_server import TritonServer, missing
from face_server.backends.batching import BatchingBackend
from face_server.backends.gathering import BatchPolicy
from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.backends.openvino import OpenVinoBackend, OpenVinoOptions
from face_server.backends.scripted import ScriptedBackend
from face_server.backends.survey import natural_noise
from face_server.backends.triton.backend import TritonBackend
from face_server.backends.triton.client import TritonClient
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.clock import SystemClock
from face_server.domain.network import Network, TensorSpec
from face_server.domain.ports import Backend, Tensors
from face_server.errors import InvalidInput, NotFound, Unavailable
from face_server.models.export.config import Instances, ModelConfig
from face_server.models.export.networks import IN_PYTHON
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

SIDE = 16


def mean_network(folder: Path) -> Network:
    """Two outputs a picture: the mean of each channel, and the picture's sum of means."""
    nodes = [
        helper.make_node("Cast", ["pictures"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceSum", ["means", "axis"], ["total"], keepdims=1),
    ]
    return _save(
        folder / "mean.onnx",
        nodes,
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
        (None, SIDE, SIDE, 3),
        {"means": (None, 3), "total": (None, 1)},
    )


def heavy_network(folder: Path, *, channels: int = 48, layers: int = 12) -> Network:
    """Convolutions that keep a core busy for a good while; pictures of any size."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Cast", ["pictures"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["values"], ["layer0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for layer in range(layers):
        kernel = rng.normal(0, 0.05, (channels, 3 if layer == 0 else channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{layer}"))
        nodes.append(helper.make_node("Conv", [f"layer{layer}", f"kernel{layer}"], [f"layer{layer + 1}"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("ReduceMean", [f"layer{layers}"], ["means"], axes=[2, 3], keepdims=0))
    return _save(folder / "heavy.onnx", nodes, weights, (None, None, None, 3), {"means": (None, channels)})


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    input_shape: tuple[int | None, ...],
    outputs: dict[str, tuple[int | None, ...]],
) -> Network:
    def dims(shape: tuple[int | None, ...]) -> list[int | str]:
        return [f"d{index}" if size is None else size for index, size in enumerate(shape)]

    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, dims(input_shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims(shape)) for name, shape in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in outputs.items())
    return Network(path.stem, path, (TensorSpec("pictures", "uint8", input_shape),), specs)


def expected_means(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the mean network answers."""
    return pictures.reshape(len(pictures), -1, 3).astype(np.float32).mean(axis=1)


def scripted_mean(inputs: Tensors) -> dict[str, NDArray[Any]]:
    """The mean network in numpy."""
    means = expected_means(inputs["pictures"])
    return {"means": means, "total": means.sum(axis=1, keepdims=True)}


@dataclass
class Case:
    """One backend under test, and how many digits its arithmetic keeps."""

    backend: Backend
    relative: float


Opener = Callable[[list[Network], Workers], Awaitable[Case]]


async def _onnx(networks: list[Network], workers: Workers) -> Case:
    return Case(await OnnxBackend.open(networks, workers, OnnxOptions(provider="cpu")), 1e-5)


async def _openvino(networks: list[Network], workers: Workers) -> Case:
    return Case(await OpenVinoBackend.open(networks, workers, OpenVinoOptions(precision="f32")), 1e-5)


async def _openvino_auto(networks: list[Network], workers: Workers) -> Case:
    return Case(await OpenVinoBackend.open(networks, workers), 2e-2)


async def _batching(networks: list[Network], workers: Workers) -> Case:
    inner = await OnnxBackend.open(networks, workers, OnnxOptions(provider="cpu"))
    return Case(BatchingBackend(inner, {network.name: BatchPolicy(max_batch=4) for network in networks}, workers), 1e-5)


async def _spreading(networks: list[Network], workers: Workers) -> Case:
    inner = await OnnxBackend.open(networks, workers, OnnxOptions(provider="cpu"))
    return Case(BatchingBackend(inner, {network.name: BatchPolicy(max_batch=1) for network in networks}, workers), 1e-5)


async def _scripted(networks: list[Network], workers: Workers) -> Case:
    return Case(ScriptedBackend({"mean": scripted_mean}, contracts=networks), 1e-6)


class Served:
    """A real tritonserver that runs networks on ONNX Runtime, four rows at a time; it learns them as they are asked for."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._server = TritonServer(repository, models=[])

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.__exit__(*exc_info)

    async def open(self, networks: list[Network], workers: Workers, shared_memory: SharedMemory) -> Case:
        """A backend on the server with ``networks`` loaded."""
        for network in networks:
            if not (self._repository / network.name).exists():
                await asyncio.to_thread(self._add, network)
        options = TritonOptions((self._server.url,), shared_memory=shared_memory)
        client = await TritonClient.open(options, workers, SystemClock(), networks)
        return Case(TritonBackend(client, networks), 1e-5)

    def _add(self, network: Network) -> None:
        folder = self._repository / network.name
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_bytes(IN_PYTHON)
        shutil.copy(network.path, folder / "1" / "model.onnx")
        tensors = [[replace(spec, shape=spec.shape[1:]) for spec in specs] for specs in (network.inputs, network.outputs)]
        digest = {"weights_sha256": network.digest}
        config = ModelConfig(network.name, "python", 4, *tensors, instances=Instances("KIND_CPU", 1), parameters=digest)
        (folder / "config.pbtxt").write_text(config.text())
        self._server.load(network.name)


RUNTIMES: dict[str, Opener] = {
    "onnx": _onnx,
    "openvino f32": _openvino,
    "openvino auto": _openvino_auto,
    "batching": _batching,
    "spreading": _spreading,
}
SERVED = {"triton": SharedMemory.OFF, "triton shared memory": SharedMemory.SYSTEM}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The tritonserver of this file."""
    if reason := missing():
        pytest.skip(reason)
    with Served(tmp_path_factory.mktemp("repository")) as server:
        yield server


@pytest.fixture
def open_case(request: pytest.FixtureRequest) -> Callable[[str, list[Network], Workers], Awaitable[Case]]:
    """Opens a backend by name."""

    async def open_case(runtime: str, networks: list[Network], workers: Workers) -> Case:
        if runtime in SERVED:
            return await request.getfixturevalue("served").open(networks, workers, SERVED[runtime])
        return await {**RUNTIMES, "scripted": _scripted}[runtime](networks, workers)

    return open_case


@pytest.fixture(params=[*RUNTIMES, "scripted", *SERVED])
async def case(request: pytest.FixtureRequest, open_case, tmp_path: Path, workers: Workers) -> AsyncIterator[Case]:
    """Each backend in turn, with the mean network loaded."""
    case = await open_case(request.param, [mean_network(tmp_path)], workers)
    yield case
    await case.backend.close()


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random input of the mean network."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


class TestBackendContract:
    @pytest.mark.parametrize("count", [1, 3, 9])
    async def test_answers(self, case: Case, count: int) -> None:
        """Every declared output comes back under its name, one row for each row that went in."""
        sent = pictures(count)
        outputs = await case.backend.infer("mean", {"pictures": sent})
        assert outputs.keys() == {"means", "total"}
        np.testing.assert_allclose(outputs["means"], expected_means(sent), rtol=case.relative)
        np.testing.assert_allclose(outputs["total"], expected_means(sent).sum(1, keepdims=True), rtol=case.relative)
        assert outputs["means"].dtype == np.float32

    async def test_accepts_any_memory_layout(self, case: Case) -> None:
        """Mirrored, sliced and read-only arrays give what their contiguous copies give."""
        sent = pictures(4)
        frozen = sent.copy()
        frozen.setflags(write=False)
        for view in (sent[:, :, ::-1], sent[::2], sent[:, ::-1, ::-1, ::-1], frozen):
            outputs = await case.backend.infer("mean", {"pictures": view})
            np.testing.assert_allclose(outputs["means"], expected_means(view), rtol=case.relative)

    async def test_leaves_inputs_alone(self, case: Case) -> None:
        """A caller's array is the same after the call, and may be overwritten without changing the answer."""
        sent = pictures(2)
        before = sent.copy()
        outputs = await case.backend.infer("mean", {"pictures": sent})
        assert (sent == before).all()
        sent[:] = 0
        np.testing.assert_allclose(outputs["means"], expected_means(before), rtol=case.relative)

    async def test_unknown_network(self, case: Case) -> None:
        """A network that is not loaded is NotFound, and the sentence says which are."""
        with pytest.raises(NotFound, match=r"'nobody'.*mean"):
            await case.backend.infer("nobody", {"pictures": pictures(1)})
        assert not await case.backend.ready("nobody")
        assert await case.backend.ready("mean")

    @pytest.mark.parametrize(
        "wrong",
        [
            pictures(1).astype(np.float32),
            pictures(1)[0],
            pictures(1)[:, :8],
            pictures(1)[..., :1],
            pictures(0),
            np.array(3, np.uint8),
        ],
        ids=["dtype", "no batch", "height", "channels", "empty batch", "scalar"],
    )
    async def test_wrong_tensor(self, case: Case, wrong: NDArray[Any]) -> None:
        """A tensor of another dtype or shape is InvalidInput; the sentence states the expected one and the field."""
        with pytest.raises(InvalidInput, match=r"'pictures' as uint8 \(N, 16, 16, 3\)") as caught:
            await case.backend.infer("mean", {"pictures": wrong})
        assert caught.value.field == "pictures"
        assert str(wrong.dtype) in caught.value.message

    @pytest.mark.parametrize("names", [[], ["picture"], ["pictures", "extra"]])
    async def test_wrong_names(self, case: Case, names: list[str]) -> None:
        """Missing and unknown input names are InvalidInput; the sentence lists the right ones."""
        with pytest.raises(InvalidInput, match="takes the inputs pictures, got"):
            await case.backend.infer("mean", {name: pictures(1) for name in names})

    async def test_not_a_tensor(self, case: Case) -> None:
        """A list where an array belongs is InvalidInput, not a crash."""
        with pytest.raises(InvalidInput, match="got list"):
            await case.backend.infer("mean", {"pictures": [1, 2, 3]})  # type: ignore[dict-item]

    async def test_many_at_once(self, case: Case) -> None:
        """64 concurrent calls with different data and batch sizes each get their own answer, and keep it."""
        sent = [pictures(1 + seed % 3, seed) for seed in range(64)]
        answers = await asyncio.gather(*(case.backend.infer("mean", {"pictures": one}) for one in sent))
        for one, outputs in zip(sent, answers, strict=True):
            np.testing.assert_allclose(outputs["means"], expected_means(one), rtol=case.relative)

    async def test_bad_calls_do_not_disturb_good_ones(self, case: Case) -> None:
        """Of calls that come together only those that are wrong fail."""
        calls = [case.backend.infer("mean", {"pictures": pictures(1, seed) if seed % 4 else pictures(1)[:, :8]}) for seed in range(24)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for seed, outputs in enumerate(answers):
            if seed % 4:
                assert isinstance(outputs, dict)
                np.testing.assert_allclose(outputs["means"], expected_means(pictures(1, seed)), rtol=case.relative)
            else:
                assert isinstance(outputs, InvalidInput)

    async def test_cancelled_callers_leave_no_trace(self, case: Case) -> None:
        """Callers that go away get CancelledError; the others their answers; nothing more is left running."""
        before = asyncio.all_tasks()
        tasks = [asyncio.create_task(case.backend.infer("mean", {"pictures": pictures(1, seed)})) for seed in range(32)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for seed, outputs in enumerate(answers):
            if seed % 2:
                assert isinstance(outputs, dict)
                np.testing.assert_allclose(outputs["means"], expected_means(pictures(1, seed)), rtol=case.relative)
            else:
                assert isinstance(outputs, asyncio.CancelledError)
        assert asyncio.all_tasks() == before

    async def test_close(self, case: Case) -> None:
        """Closing twice is fine; afterwards nothing is ready and calls are Unavailable."""
        await case.backend.close()
        await case.backend.close()
        assert not await case.backend.ready("mean")
        with pytest.raises(Unavailable, match="closed"):
            await case.backend.infer("mean", {"pictures": pictures(1)})

    async def test_close_under_load(self, case: Case) -> None:
        """Closing while calls run ends each with an answer or Unavailable, and leaves no task."""
        tasks = [asyncio.create_task(case.backend.infer("mean", {"pictures": pictures(2, seed)})) for seed in range(32)]
        await asyncio.sleep(0.001)
        await case.backend.close()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, (dict, Unavailable)) for answer in answers)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_description(self, case: Case) -> None:
        """It says what runs the networks."""
        assert any(word in case.backend.description for word in ("onnxruntime", "openvino", "scripted", "triton 2"))


@pytest.fixture(params=[*RUNTIMES, *SERVED])
async def heavy(request: pytest.FixtureRequest, open_case, tmp_path: Path) -> AsyncIterator[Backend]:
    """Each real runtime in turn, with a network that takes a while and one worker thread."""
    with Workers(1) as worker:
        case = await open_case(request.param, [heavy_network(tmp_path)], worker)
        yield case.backend
        await case.backend.close()


class TestEventLoop:
    async def test_stays_free(self, heavy: Backend) -> None:
        """While networks run, the event loop neither blocks in a system call nor pauses for long."""
        sent = {"pictures": natural_noise(256, 256)[None]}
        await heavy.infer("heavy", sent)
        loop = asyncio.get_running_loop()
        lags: list[float] = []

        async def beat() -> None:
            while True:
                before = loop.time()
                await asyncio.sleep(0.001)
                lags.append(loop.time() - before)

        with blockbuster_ctx():
            heart = asyncio.create_task(beat())
            started = loop.time()
            await asyncio.gather(*(heavy.infer("heavy", sent) for _ in range(4)))
            took = loop.time() - started
            heart.cancel()
        assert took > 0.02, "the network is too light to show anything"
        assert len(lags) > took / 0.02, f"{len(lags)} beats in {took:.3f} s, the longest {max(lags):.3f} s"

    async def test_cancelling_drops_what_has_not_started(self, heavy: Backend) -> None:
        """Behind one busy worker, calls whose callers left are not run."""
        sent = {"pictures": natural_noise(256, 256)[None]}
        await heavy.infer("heavy", sent)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await heavy.infer("heavy", sent)
        one_s = loop.time() - started
        tasks = [asyncio.create_task(heavy.infer("heavy", sent)) for _ in range(40)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started = loop.time()
        await heavy.infer("heavy", sent)
        assert loop.time() - started < 12 * one_s


class TestRealWeights:
    @pytest.mark.parametrize("runtime", ["openvino f32", "openvino auto", "batching", "spreading", *SERVED])
    async def test_embeddings_agree(self, runtime: str, open_case, weights: WeightsStore, workers: Workers, shared: Path) -> None:
        """SFace gives the same embeddings on every runtime: cosine at least .999 with ONNX Runtime's."""
        network = weights.network("sface")
        crops = await workers.run(_face_crops, shared, 6)
        reference = (await _onnx([network], workers)).backend
        other = (await open_case(runtime, [network], workers)).backend
        sent = {"crops": crops}
        one, two = await reference.infer("sface", sent), await other.infer("sface", sent)
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one["features"], two["features"]))
        assert np.sum(a * b, axis=1).min() >= 0.999
        assert (a @ a.T)[np.triu_indices(len(a), 1)].max() < 0.9, "different crops must give different embeddings"
        for backend in (reference, other):
            await backend.close()

    @pytest.mark.parametrize("runtime", ["openvino f32", "openvino auto", "batching", *SERVED])
    async def test_detector_outputs_agree(self, runtime: str, open_case, weights: WeightsStore, workers: Workers) -> None:
        """YuNet's raw outputs are close on every runtime, for pictures of two sizes."""
        network = weights.network("yunet")
        reference = (await _onnx([network], workers)).backend
        case = await open_case(runtime, [network], workers)
        for height, width in ((320, 256), (192, 320)):
            sent = {"images": natural_noise(height, width)[None]}
            one, two = await reference.infer("yunet", sent), await case.backend.infer("yunet", sent)
            for name, values in one.items():
                scale = max(1.0, float(np.abs(values).max()))
                assert np.abs(values - two[name]).max() <= max(5e-3, 3 * case.relative) * scale, name
        for backend in (reference, case.backend):
            await backend.close()


def _face_crops(shared: Path, count: int) -> NDArray[np.uint8]:
    """Centres of LFW photos, which are cropped around the face."""
    files = sorted((shared / "data" / "lfw").rglob("*.jpg"))[: count * 7 : 7]
    if len(files) < count:
        pytest.skip("needs photos in ../shared/data/lfw")
    photos = [cv2.imread(str(file)) for file in files]
    return np.stack([cv2.resize(photo[60:190, 60:190], (112, 112)) for photo in photos])

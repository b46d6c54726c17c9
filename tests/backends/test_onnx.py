"""The ONNX Runtime backend beyond the contract: providers, broken files, foreign errors, memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from face_server.backends.onnx import FOREIGN_ERRORS, OnnxBackend, OnnxOptions
from face_server.domain.network import Network, TensorSpec
from face_server.errors import ConfigurationError, InvalidInput, Unavailable, WeightsError
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

GPU_OFFERED = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def reshaping(folder: Path) -> Network:
    """A network that takes only batches divisible by two: it reshapes N values to N/2 × 2."""
    nodes = [
        helper.make_node("Cast", ["rows"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array([-1, 2], np.int64))),
        helper.make_node("Reshape", ["values", "shape"], ["pairs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "reshaping",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, ["N"])],
        [helper.make_tensor_value_info("pairs", TensorProto.FLOAT, ["M", 2])],
    )
    path = folder / "reshaping.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
    return Network("reshaping", path, (TensorSpec("rows", "uint8", (None,)),), (TensorSpec("pairs", "float32", (None, 2)),))


class TestProviders:
    async def test_reports_what_is_in_use(self, tmp_path: Path, workers: Workers) -> None:
        """The description and the list of each network name the provider that really runs it."""
        backend = await OnnxBackend.open([reshaping(tmp_path)], workers, OnnxOptions(provider="cpu"))
        assert backend.providers == {"reshaping": ("CPUExecutionProvider",)}
        assert backend.description == f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider)"

    @pytest.mark.skipif(GPU_OFFERED, reason="this build of ONNX Runtime offers a GPU")
    @pytest.mark.parametrize("options", [OnnxOptions(require_gpu=True), OnnxOptions("cuda"), OnnxOptions("tensorrt", require_gpu=True)])
    async def test_required_gpu_is_absent(self, tmp_path: Path, workers: Workers, options: OnnxOptions) -> None:
        """A GPU that is asked for and absent stops the start; nothing falls back to the CPU."""
        with pytest.raises(ConfigurationError, match=r"offers no (CUDA|Tensorrt)ExecutionProvider, only .*CPUExecutionProvider"):
            await OnnxBackend.open([reshaping(tmp_path)], workers, options)

    @pytest.mark.skipif(GPU_OFFERED, reason="this build of ONNX Runtime offers a GPU")
    async def test_provider_that_does_not_start(self, tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
        """A provider that is offered but does not start is an error when required, whatever the runtime says."""
        # A build with CUDA on a machine without a driver answers like this.
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
        with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ConfigurationError, match="instead of CUDA"):
            await OnnxBackend.open([reshaping(tmp_path)], workers, OnnxOptions(require_gpu=True))
        with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
            backend = await OnnxBackend.open([reshaping(tmp_path)], workers, OnnxOptions())
        assert "CPUExecutionProvider" in backend.description
        assert "CUDA" not in backend.description

    def test_contradiction(self) -> None:
        """A GPU cannot be required of the CPU provider."""
        with pytest.raises(ConfigurationError, match="require_gpu contradicts"):
            OnnxOptions("cpu", require_gpu=True)


class TestFiles:
    async def test_missing(self, tmp_path: Path, workers: Workers) -> None:
        """A file that is not there is a WeightsError that names network and file."""
        network = replace(reshaping(tmp_path), path=tmp_path / "gone.onnx")
        with pytest.raises(WeightsError, match=r"'reshaping' is missing: gone\.onnx"):
            await OnnxBackend.open([network], workers)

    @pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
    async def test_not_a_network(self, tmp_path: Path, workers: Workers, content: bytes) -> None:
        """A file that is no ONNX graph is a WeightsError."""
        network = reshaping(tmp_path)
        network.path.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot load network 'reshaping'"):
            await OnnxBackend.open([network], workers)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"inputs": (TensorSpec("rows", "float32", (None,)),)}, "'rows' must be float32 .*is uint8"),
            ({"inputs": (TensorSpec("crops", "uint8", (None,)),)}, "'crops' must be .* is none of that name"),
            ({"inputs": ()}, "takes the inputs rows"),
            (
                {"outputs": (TensorSpec("pairs", "float32", (None, 3)),)},
                r"among its outputs 'pairs' must be float32 \(N, 3\), is float32 \(N, 2\)",
            ),
        ],
    )
    async def test_breaks_its_contract(
        self, tmp_path: Path, workers: Workers, change: dict[str, tuple[TensorSpec, ...]], message: str
    ) -> None:
        """A graph whose tensors are not those of the catalogue is refused before anything runs."""
        with pytest.raises(WeightsError, match=message):
            await OnnxBackend.open([replace(reshaping(tmp_path), **change)], workers)


class TestForeignErrors:
    def test_all_are_known(self) -> None:
        """Every exception class of ONNX Runtime is translated; a new one in a new release fails here."""
        theirs = {kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
        assert len(theirs) >= 10
        assert theirs <= set(FOREIGN_ERRORS)

    async def test_failure_inside_the_graph(self, tmp_path: Path, workers: Workers) -> None:
        """An input that passes the contract and fails inside is an error of ours that tells the shape, not ORT's text."""
        backend = await OnnxBackend.open([reshaping(tmp_path)], workers)
        with pytest.raises((Unavailable, InvalidInput), match=r"'reshaping' on rows \(3,\)$") as caught:
            await backend.infer("reshaping", {"rows": np.zeros(3, np.uint8)})
        assert isinstance(caught.value.__cause__, FOREIGN_ERRORS)
        outputs = await backend.infer("reshaping", {"rows": np.arange(4, dtype=np.uint8)})
        assert outputs["pairs"].tolist() == [[0, 1], [2, 3]]


async def test_memory_stays_flat(weights: WeightsStore, workers: Workers) -> None:
    """After 40 sizes of pictures, 60 other sizes take hardly any more memory."""
    backend = await OnnxBackend.open([weights.network("yunet")], workers)
    rng = np.random.default_rng(3)
    sides = rng.permutation([(32 * rows, 32 * columns) for rows in range(4, 14) for columns in range(4, 14)])
    picture = rng.integers(0, 256, (1, 416, 416, 3), np.uint8)
    for height, width in sides[:40]:
        await backend.infer("yunet", {"images": picture[:, :height, :width]})
    before = resident_mb()
    for height, width in sides[40:]:
        await backend.infer("yunet", {"images": picture[:, :height, :width]})
    assert resident_mb() - before < 40

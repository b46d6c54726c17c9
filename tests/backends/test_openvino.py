"""The OpenVINO backend beyond the contract: precision, files, memory, and its absence."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest

from face_server.backends.openvino import FOREIGN_ERRORS, OpenVinoBackend, OpenVinoOptions
from face_server.errors import ConfigurationError, WeightsError
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class TestPrecision:
    async def test_auto(self, weights: WeightsStore, workers: Workers) -> None:
        """Auto is bf16 exactly where the CPU has it, and the description says so."""
        backend = await OpenVinoBackend.open([weights.network("yunet")], workers)
        assert backend.precision == ("bf16" if HAS_BF16 else "f32")
        assert backend.description == f"openvino {openvino.__version__.split('-')[0]} (CPU, {backend.precision})"

    @pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
    async def test_is_obeyed(self, weights: WeightsStore, workers: Workers) -> None:
        """f32 and bf16 really compute differently."""
        sent = {"crops": np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), np.uint8)}
        answers = {}
        for precision in ("f32", "bf16"):
            backend = await OpenVinoBackend.open([weights.network("sface")], workers, OpenVinoOptions(precision=precision))
            answers[precision] = (await backend.infer("sface", sent))["features"]
            assert answers[precision].dtype == np.float32
        difference = np.abs(answers["f32"] - answers["bf16"]).max()
        assert 0 < difference < 0.1 * np.abs(answers["f32"]).max()

    @pytest.mark.skipif(HAS_BF16, reason="this CPU has bf16")
    async def test_absent_bf16(self, weights: WeightsStore, workers: Workers) -> None:
        """Asking for bf16 of a CPU without it stops the start."""
        with pytest.raises(ConfigurationError, match="bf16"):
            await OpenVinoBackend.open([weights.network("yunet")], workers, OpenVinoOptions(precision="bf16"))


class TestFiles:
    async def test_missing(self, weights: WeightsStore, workers: Workers, tmp_path: Path) -> None:
        """A file that is not there is a WeightsError that names network and file."""
        with pytest.raises(WeightsError, match=r"'yunet' is missing: gone\.onnx"):
            await OpenVinoBackend.open([replace(weights.network("yunet"), path=tmp_path / "gone.onnx")], workers)

    async def test_not_a_network(self, weights: WeightsStore, workers: Workers, tmp_path: Path) -> None:
        """A file that is no ONNX graph is a WeightsError."""
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(b"nonsense" * 100)
        with pytest.raises(WeightsError, match="cannot load network 'yunet' from"):
            await OpenVinoBackend.open([replace(weights.network("yunet"), path=broken)], workers)

    async def test_breaks_its_contract(self, weights: WeightsStore, workers: Workers) -> None:
        """A graph whose tensors are not those of the catalogue is refused before anything runs."""
        network = weights.network("sface")
        claimed = replace(network, outputs=(replace(network.outputs[0], shape=(None, 512)),))
        with pytest.raises(WeightsError, match=r"must be float32 \(N, 512\), is float32 \(N, 128\)"):
            await OpenVinoBackend.open([claimed], workers)


def test_foreign_errors_are_all_known() -> None:
    """Every exception class of OpenVINO's bindings is translated; a new one in a new release fails here."""
    theirs = {kind for kind in vars(openvino._pyopenvino).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert len(theirs) >= 5
    assert theirs <= set(FOREIGN_ERRORS)


async def test_outputs_are_nobody_elses(weights: WeightsStore, workers: Workers) -> None:
    """Answers do not change when later calls run in the same infer requests, and may be written to."""
    backend = await OpenVinoBackend.open([weights.network("sface")], workers)
    crops = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), np.uint8)
    first = await asyncio.gather(*(backend.infer("sface", {"crops": crop[None]}) for crop in crops))
    kept = [answer["features"].copy() for answer in first]
    await asyncio.gather(*(backend.infer("sface", {"crops": 255 - crop[None]}) for crop in crops))
    for answer, copy in zip(first, kept, strict=True):
        assert (answer["features"] == copy).all()
        answer["features"][:] = 0
    again = await asyncio.gather(*(backend.infer("sface", {"crops": crop[None]}) for crop in crops))
    for answer, copy in zip(again, kept, strict=True):
        np.testing.assert_allclose(answer["features"], copy, rtol=1e-4, atol=1e-4)


async def test_memory_is_bounded(weights: WeightsStore, workers: Workers) -> None:
    """With few kernels kept, 60 sizes of pictures after 40 others take hardly any more memory."""
    backend = await OpenVinoBackend.open([weights.network("yunet")], workers, OpenVinoOptions(cached_kernels=128))
    rng = np.random.default_rng(3)
    sides = rng.permutation([(32 * rows, 32 * columns) for rows in range(4, 14) for columns in range(4, 14)])
    picture = rng.integers(0, 256, (1, 416, 416, 3), np.uint8)
    for height, width in sides[:40]:
        await backend.infer("yunet", {"images": picture[:, :height, :width]})
    before = resident_mb()
    for height, width in sides[40:]:
        await backend.infer("yunet", {"images": picture[:, :height, :width]})
    assert resident_mb() - before < 40


def test_absence_names_the_extra() -> None:
    """Without the package, using the backend is a ConfigurationError that says what to install."""
    script = (
        "import sys; sys.modules['openvino'] = None\n"
        "from face_server.errors import ConfigurationError\n"
        "try:\n    import face_server.backends.openvino\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'face_server[openvino]'" in done.stdout

"""Networks whose convolutions compute with whole numbers of eight bits: the ranges of their tensors become part of the graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from face_server.domain.ports import Tensors
from face_server.errors import WeightsError

_COMPUTING: Final = ["Conv", "Gemm", "MatMul"]

_FOR_TENSORRT: Final = {
    # It knows no zero points, wants a pair of its own before every node, weights as floats before their pair, and biases left alone.
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "DedicatedQDQPair": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
}


def in_eight_bits(graph: bytes, samples: Iterator[Tensors]) -> bytes:
    """The ONNX ``graph`` with explicit quantisation (QuantizeLinear, DequantizeLinear) of what convolutions take.

    ``samples`` are inputs of the network as it meets them in use; the largest and smallest values
    that each tensor takes on them bound its range. Inputs and outputs stay as they were. Raises
    WeightsError for a graph that cannot be quantised, or without samples. Blocks.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "floats.onnx", Path(scratch) / "eight_bits.onnx"
        source.write_bytes(graph)
        try:
            quantize_static(
                source,
                target,
                _Samples(samples),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_COMPUTING,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options=_FOR_TENSORRT,
            )
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"the network cannot be calibrated: {error}") from error
        return target.read_bytes()


def noted(graph: bytes, notes: dict[str, str]) -> bytes:
    """``graph`` with ``notes`` in its metadata."""
    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, notes)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def notes_of(graph: bytes) -> dict[str, str]:
    """The metadata of ``graph``."""
    return {one.key: one.value for one in onnx.load_model_from_string(graph).metadata_props}


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """One sample after the other, then None."""

    def __init__(self, samples: Iterator[Tensors]) -> None:
        self._samples = samples

    def get_next(self) -> Any:
        return next(self._samples, None)

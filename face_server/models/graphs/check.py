"""Proof that a prepared network computes what the published one computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from face_server.domain.image import Pixels
from face_server.errors import WeightsError
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.graphs.editing import live_inputs

Arrays = list[NDArray[Any]]

_TOLERANCE = 1e-4
_FREE_SIDE_PX = 320
_RUNTIME_ERRORS = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
)


def check_equal(original: bytes, prepared: bytes, recipe: Recipe, what: str) -> list[tuple[int, ...]]:
    """Compare the outputs of ``prepared`` with those of ``original`` on a fixed picture.

    They may differ by 1e-4 of the largest value of an output (the order of float additions). The
    prepared network must also treat each picture of a batch as if it were alone, and a detector
    must take canvases of any multiple of its stride. Returns the shapes
    of the prepared outputs for two pictures. Raises WeightsError naming ``what``.
    """
    shape = _picture_shape(original, recipe.contract)
    pictures = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    try:
        expected = _run_original(original, as_published(pictures, recipe.contract))
        session = _session(prepared)
        single = session.run(list(recipe.outputs), {recipe.contract.tensor: pictures})
        pair = session.run(list(recipe.outputs), {recipe.contract.tensor: np.concatenate((pictures[:1, ::-1], pictures[:1]))})
        if recipe.contract.size_px is None:
            strip = np.zeros((1, 3 * recipe.contract.stride, recipe.contract.stride, 3), np.uint8)
            session.run(None, {recipe.contract.tensor: strip})
    except _RUNTIME_ERRORS as error:
        raise WeightsError(f"{what} does not run after preparation: {str(error).splitlines()[0]}") from error
    for name, one, alone, two in zip(recipe.outputs, expected[: len(single)], single, pair, strict=True):
        _require_close(one.reshape(alone.shape) if one.size == alone.size else one, alone, f"output {name} of {what}")
        _require_close(alone[:1], two[1:], f"output {name} of {what} in a batch")
    return [tuple(array.shape) for array in pair]


def as_published(pictures: Pixels, contract: InputContract) -> NDArray[np.float32]:
    """N×H×W×3 BGR pictures as the float N×3×H×W tensor that the published network expects."""
    ordered = pictures[..., ::-1] if contract.colour is Colour.RGB else pictures
    scaled = (ordered.astype(np.float32) - np.array(contract.mean, np.float32)) * np.float32(contract.scale)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _picture_shape(original: bytes, contract: InputContract) -> tuple[int, int, int, int]:
    dims = live_inputs(onnx.load_model_from_string(original))[0].type.tensor_type.shape.dim
    batch, _, height, width = (dim.dim_value for dim in dims)
    side = contract.size_px or _FREE_SIDE_PX
    return batch or 1, height or side, width or side, 3


def _run_original(original: bytes, tensor: NDArray[np.float32]) -> Arrays:
    """Outputs of the published file; by ONNX's reference evaluator where ONNX Runtime refuses it."""
    name = live_inputs(onnx.load_model_from_string(original))[0].name
    try:
        session = _session(original)
        # Weights that a file declares as inputs without reading them must be fed all the same.
        unread = {value.name: np.zeros(value.shape, np.float32) for value in session.get_inputs() if value.name != name}
        return list(session.run(None, {**unread, name: tensor}))
    except _RUNTIME_ERRORS:
        return list(ReferenceEvaluator(onnx.load_model_from_string(original)).run(None, {name: tensor}))


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _require_close(expected: NDArray[Any], actual: NDArray[Any], what: str) -> None:
    if expected.shape != actual.shape:
        raise WeightsError(f"{what} has shape {actual.shape}, the published network gives {expected.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        raise WeightsError(f"{what} is not finite")
    difference = float(np.abs(expected - actual).max(initial=0.0))
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if difference > allowed:
        raise WeightsError(f"{what} differs by {difference:.2g} from the published network, more than {allowed:.2g}")

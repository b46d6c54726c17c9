"""Repairs of published graphs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from face_server.domain.image import Pixels
from face_server.errors import WeightsError
from face_server.models.catalog import CATALOG
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.families import family_of
from face_server.models.graphs.check import as_published, check_equal
from face_server.models.graphs.constants import dequantize
from face_server.models.graphs.prepare import prepare
from face_server.models.weights import WeightsStore


def published(weights: WeightsStore, name: str) -> bytes:
    """The published file of a network that is ready."""
    return weights.network(name).path.with_name("weights.onnx").read_bytes()


def run(model: bytes, tensor: np.ndarray) -> list[np.ndarray]:
    """All outputs of a network with one input, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})


@pytest.mark.parametrize("name", CATALOG)
def test_prepared_networks_hold_only_what_runs_fast(all_weights: WeightsStore, name: str) -> None:
    """No quantised weights, no slow activation, no overridable weights, one uint8 input."""
    graph = onnx.load(all_weights.network(name).path).graph
    assert {node.op_type for node in graph.node}.isdisjoint({"DequantizeLinear", "PRelu", "Dropout", "Constant"})
    assert {tensor.data_type for tensor in graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert [value.type.tensor_type.elem_type for value in graph.input] == [TensorProto.UINT8]


@pytest.mark.parametrize("name", CATALOG)
def test_preparing_is_deterministic(all_weights: WeightsStore, name: str) -> None:
    """The same published file gives the same bytes each time, and those that were installed."""
    recipe = family_of(CATALOG[name].family).recipe
    assert prepare(published(all_weights, name), recipe, name) == all_weights.network(name).path.read_bytes()


@pytest.mark.parametrize("name", CATALOG)
def test_prepared_networks_compute_what_the_published_ones_do(all_weights: WeightsStore, name: str) -> None:
    """Every output of every network agrees with the original file's, borders and batches included."""
    network = all_weights.network(name)
    shapes = check_equal(published(all_weights, name), network.path.read_bytes(), family_of(CATALOG[name].family).recipe, name)
    assert all(shape[0] == 2 for shape in shapes)


def altered(contract: InputContract) -> dict[str, InputContract]:
    """Contracts that differ from ``contract`` in one respect."""
    other = Colour.BGR if contract.colour is Colour.RGB else Colour.RGB
    return {
        "colour": dataclasses.replace(contract, colour=other),
        "mean": dataclasses.replace(contract, mean=tuple(value + 1.0 for value in contract.mean)),
        "scale": dataclasses.replace(contract, scale=contract.scale * 1.01),
    }


@pytest.mark.parametrize("name", ["arcface_mobilefacenet", "scrfd_500m", "retinaface_mnet025", "centerface", "sface"])
@pytest.mark.parametrize("respect", ["colour", "mean", "scale"])
def test_the_comparison_notices_wrong_pixels(all_weights: WeightsStore, name: str, respect: str) -> None:
    """Swapped channels, a mean off by one or a scale off by 1 % do not pass as equal."""
    recipe = family_of(CATALOG[name].family).recipe
    wrong = Recipe(altered(recipe.contract)[respect], recipe.outputs)
    data = published(all_weights, name)
    with pytest.raises(WeightsError, match="from the published network"):
        check_equal(data, prepare(data, wrong, name), recipe, name)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 640), (352, 224)])
@pytest.mark.parametrize("name", ["yunet", "centerface", "scrfd_500m", "scrfd_2.5g", "retinaface_mnet025"])
def test_detectors_take_any_canvas(all_weights: WeightsStore, name: str, height: int, width: int) -> None:
    """Outputs grow with the canvas: the cells of every stride are all there, for every picture of a batch."""
    outputs = run(all_weights.network(name).path.read_bytes(), np.zeros((2, height, width, 3), np.uint8))
    cells = {
        "centerface": [height * width // 16] * 4,
        "retinaface_mnet025": [sum(2 * height * width // stride**2 for stride in (8, 16, 32))] * 3,
    }.get(name, [(1 if name == "yunet" else 2) * height * width // stride**2 for stride in (8, 16, 32)] * (len(outputs) // 3))
    counts = [output[0].size // (output.shape[1] if output.ndim == 4 else output.shape[2]) for output in outputs]
    assert counts == cells
    assert all(len(output) == 2 for output in outputs)


def test_openvino_runs_prepared_networks_with_free_shapes(all_weights: WeightsStore, six_faces: Pixels) -> None:
    """One compiled network takes canvases and batches of several shapes and agrees with ONNX Runtime."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for name in CATALOG:
        network = all_weights.network(name)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(network.path), "CPU", settings)
        session = onnxruntime.InferenceSession(network.path, providers=["CPUExecutionProvider"])
        side = network.inputs[0].shape[1]
        for batch, height, width in ((1, 160, 256), (3, 96, 64)):
            shape = (side or height, side or width)
            pictures = np.stack([six_faces[100 * i :, 300:][: shape[0], : shape[1]] for i in range(batch)])
            expected = session.run([spec.name for spec in network.outputs], {network.inputs[0].name: pictures})
            actual = compiled({network.inputs[0].name: pictures})
            for spec, value in zip(network.outputs, expected, strict=True):
                np.testing.assert_allclose(actual[spec.name], value, atol=1e-3 * max(1.0, float(np.abs(value).max())))


@pytest.mark.parametrize(
    ("shape", "scale_shape", "axis", "block"), [((6, 8), (), 1, 0), ((6, 8), (8,), 1, 0), ((6, 8), (6, 2), 1, 4), ((7, 4), (4, 4), 0, 2)]
)
def test_dequantising_follows_the_standard(shape: tuple[int, ...], scale_shape: tuple[int, ...], axis: int, block: int) -> None:
    """Per tensor, per axis and per block (also a last block that is short) as ONNX defines them."""
    random = np.random.default_rng(3)
    values = random.integers(-128, 127, shape, np.int8)
    scale = random.random(scale_shape, np.float32) + np.float32(0.5)
    zero = random.integers(-5, 5, scale_shape, np.int8)
    expected = np.empty(shape, np.float32)
    for place in np.ndindex(shape):
        cell: tuple[int, ...] = ()
        if len(scale_shape) == 1:
            cell = (place[axis],)
        elif scale_shape:
            cell = tuple(index // block if number == axis else index for number, index in enumerate(place))
        expected[place] = (np.float32(values[place]) - np.float32(zero[cell])) * np.asarray(scale)[cell]
    actual = dequantize(values, np.asarray(scale), np.asarray(zero), axis=axis, block_size=block)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def small_network(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], *, outputs: int = 1) -> bytes:
    """A model from N×3×8×8 ``x`` to ``y``."""
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")[:outputs]]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [picture], results, tensors)
    for result in graph.output:
        result.type.tensor_type.shape.Clear()
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    return inferred.SerializeToString()


CONTRACT = InputContract("crops", Colour.RGB, mean=(100.0, 110.0, 120.0), scale=0.05, size_px=8)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,)])
def test_prelu_keeps_its_values(shape: tuple[int, ...]) -> None:
    """Slopes per channel become convolutions, a single slope stays, and slopes below 0 and above 1 hold too."""
    random = np.random.default_rng(5)
    constants = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "a": np.linspace(-0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape),
    }
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), helper.make_node("PRelu", ["h", "a"], ["y"])]
    data = small_network(nodes, constants)
    recipe = Recipe(CONTRACT, ("features",))
    prepared = prepare(data, recipe, "a test network")
    check_equal(data, prepared, recipe, "a test network")
    operators = {node.op_type for node in onnx.load_model_from_string(prepared).graph.node}
    assert ("PRelu" in operators) == (shape == (1,))


def test_graphs_that_open_with_something_else_keep_their_values() -> None:
    """Where no convolution comes first, colour order, mean and scale are applied to the pixels themselves."""
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])]
    data = small_network(nodes, {})
    recipe = Recipe(CONTRACT, ("features",))
    prepared = prepare(data, recipe, "a test network")
    check_equal(data, prepared, recipe, "a test network")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    expected = ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"x": as_published(pictures[:1], CONTRACT)})[0]
    np.testing.assert_allclose(run(prepared, pictures)[0][:1], expected, atol=1e-5)


def test_adaface_takes_bgr_and_drops_its_second_output(all_weights: WeightsStore) -> None:
    """A feature network with the feature's length beside it, fed BGR as published, becomes one output."""
    recipe = family_of("adaface").recipe
    model = onnx.load_model_from_string(published(all_weights, "arcface_mobilefacenet"))
    feature = model.graph.output[0].name
    model.graph.node.append(helper.make_node("ReduceL2", [feature], ["length"], axes=[1], keepdims=1))
    model.graph.output.append(helper.make_tensor_value_info("length", TensorProto.FLOAT, ["batch", 1]))
    data = model.SerializeToString()
    prepared = prepare(data, recipe, "a test network")
    check_equal(data, prepared, recipe, "a test network")
    crop = np.random.default_rng(1).integers(0, 256, (1, 112, 112, 3), np.uint8)
    blob = ((crop.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    (features,) = run(prepared, crop)
    np.testing.assert_allclose(features, run(data, np.ascontiguousarray(blob))[0], atol=1e-4)


def test_files_that_are_no_network_are_refused() -> None:
    """Bytes that are not ONNX, foreign operators, wrong inputs and wrong outputs each get their sentence."""
    recipe = Recipe(CONTRACT, ("features",))
    with pytest.raises(WeightsError, match="the file is not a valid ONNX model"):
        prepare(b"\x00garbage", recipe, "the file")
    with pytest.raises(WeightsError, match="the file is not a valid ONNX model"):
        prepare(b"", recipe, "the file")
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
    with pytest.raises(WeightsError, match=r"must have 2 outputs \(boxes, scores\), it has 1"):
        prepare(small_network([pool], {}), Recipe(CONTRACT, ("boxes", "scores")), "the file")
    flat = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [flat], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(WeightsError, match="must take one picture tensor N×3×H×W"):
        prepare(model.SerializeToString(), recipe, "the file")
    own = helper.make_graph([helper.make_node("Own", ["x"], ["y"], domain="com.example")], "g", [flat], [result])
    foreign = helper.make_model(own, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)], ir_version=8)
    with pytest.raises(WeightsError, match=r"operators outside the ONNX standard: com\.example"):
        prepare(foreign.SerializeToString(), recipe, "the file")

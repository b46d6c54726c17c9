"""Published graphs in the shape that clients of other systems expect: floats in, foreign names."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from face_server.errors import WeightsError
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.graphs.constants import fix_upsampling, fold_constants
from face_server.models.graphs.editing import GraphEditor, attributes, load
from face_server.models.graphs.rewrites import declare_outputs, drop_no_ops, free_reshapes, rewrite_prelu

Shape = tuple[int | str, ...]

_CENTERFACE_OUTPUTS = ("537", "538", "539", "540")


def recogniser(published: bytes, recipe: Recipe, dimension: int, what: str) -> bytes:
    """``input`` float32 N×3×112×112, BGR, (x − 127.5) / 127.5, to ``features`` of length 1 and ``norms`` N×1.

    ``recipe`` says what the published network wants instead. Lengths are those of its first output,
    unless, as AdaFace's exports do, it gives unit vectors and their former lengths as a second one.
    """
    source = load(published, what)
    lengths = len(source.graph.output) > len(recipe.outputs) and recipe.surplus
    editor = _repaired(source)
    declare_outputs(editor, ("raw", "lengths") if lengths else ("raw",))
    side = recipe.contract.size_px or 0
    _take_bgr(editor, recipe.contract)
    length = editor.fresh("length")
    least = editor.add_constant("least", np.array(1e-10, np.float32))
    if editor.opset >= 18:
        # The axes have become a tensor.
        axes = editor.add_constant("axes", np.array([1], np.int64))
        measured = helper.make_node("ReduceL2", ["raw", axes], [length], keepdims=1)
    else:
        measured = helper.make_node("ReduceL2", ["raw"], [length], axes=[1], keepdims=1)
    editor.nodes += [
        measured,
        helper.make_node("Max", [length, least], ["safe_length"]),
        helper.make_node("Div", ["raw", "safe_length"], ["features"]),
    ]
    if lengths:
        column = editor.add_constant("column", np.array([-1, 1], np.int64))
        editor.nodes.append(helper.make_node("Reshape", ["lengths", column], ["norms"]))
    else:
        editor.nodes.append(helper.make_node("Identity", [length], ["norms"]))
    _declare(editor, {"input": ("N", 3, side, side)}, {"features": ("N", dimension), "norms": ("N", 1)})
    return _serialized(editor, what)


def centerface(published: bytes, what: str) -> bytes:
    """The published CenterFace for N×3×480×640 RGB pictures of 0..255, under the names of its tensors."""
    editor = _repaired(load(published, what))
    source = editor.inputs[0].name
    # Four sizes below the input's: a cell of the heatmap is four pixels.
    shapes: dict[str, Shape] = {name: ("N", channels, 120, 160) for name, channels in zip(_CENTERFACE_OUTPUTS, (1, 2, 2, 10), strict=True)}
    declare_outputs(editor, _CENTERFACE_OUTPUTS)
    editor.redirect(source, "input.1")
    _declare(editor, {"input.1": ("N", 3, 480, 640)}, shapes)
    return _serialized(editor, what)


def upright(published: bytes, names: tuple[str, ...], outputs: dict[str, Shape], side: int | None, what: str) -> bytes:
    """A network of MTCNN for N×H×W×3 pictures as ``input_1``, its outputs called ``names`` in the order of the file.

    The published networks were trained on transposed pictures, N×W×H×3, and give transposed maps;
    both transpositions move into the layout changes that the graph makes anyway. ``outputs`` are
    the shapes to declare.
    """
    editor = _editor(load(published, what))
    first = editor.consumers(editor.inputs[0].name)
    last = [node for value in editor.outputs if (node := _layout_change(editor, value.name)) is not None]
    if len(first) != 1 or first[0].op_type != "Transpose":
        raise WeightsError(f"{what} does not begin with the layout change of MTCNN's networks")
    for node in (*first, *last):
        expected, turned = ([0, 3, 1, 2], [0, 3, 2, 1]) if node is first[0] else ([0, 2, 3, 1], [0, 3, 2, 1])
        if list(attributes(node)["perm"]) != expected:
            raise WeightsError(f"{what} changes its layout in another way than MTCNN's networks")
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("perm", turned))
    editor.redirect(editor.inputs[0].name, "input_1")
    declare_outputs(editor, names)
    _declare(editor, {"input_1": ("N", side or "H", side or "W", 3)}, outputs)
    return _serialized(editor, what)


def facenet(published: bytes, what: str) -> bytes:
    """A user's FaceNet for N×160×160×3 as ``input_1`` with ``Bottleneck_BatchNorm``; N×3×160×160 is accepted too."""
    editor = _repaired(load(published, what))
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in editor.inputs]
    if len(shapes) != 1 or shapes[0][1:] not in ([160, 160, 3], [3, 160, 160]) or len(editor.outputs) != 1:
        raise WeightsError(f"{what} must take one picture N×160×160×3 or N×3×160×160 and give one output, it takes {shapes}")
    found = [dim.dim_value for dim in editor.outputs[0].type.tensor_type.shape.dim]
    if len(found) != 2 or found[1] not in {0, 128}:
        raise WeightsError(f"{what} must give 128 values a face, it gives {found}")
    if shapes[0][1] == 3:
        planes = editor.fresh("planes")
        editor.redirect(editor.inputs[0].name, planes)
        editor.nodes.insert(0, helper.make_node("Transpose", ["input_1"], [planes], perm=[0, 3, 1, 2]))
    else:
        editor.redirect(editor.inputs[0].name, "input_1")
    declare_outputs(editor, ("Bottleneck_BatchNorm",))
    _declare(editor, {"input_1": ("N", 160, 160, 3)}, {"Bottleneck_BatchNorm": ("N", 128)})
    return _serialized(editor, what)


def _editor(source: onnx.ModelProto) -> GraphEditor:
    """An editor of ``source`` in which every tensor has a name that no foreign name can be equal to."""
    graph = source.graph
    for names in (names for node in graph.node for names in (node.input, node.output)):
        # An empty name is an input that is left out.
        names[:] = [name and f"published/{name}" for name in names]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = f"published/{value.name}"
    for weight in graph.initializer:
        weight.name = f"published/{weight.name}"
    return GraphEditor(source)


def _repaired(source: onnx.ModelProto) -> GraphEditor:
    """What ``graphs.prepare`` repairs, without its changes of input and outputs."""
    editor = _editor(source)
    inferred = onnx.shape_inference.infer_shapes(source)
    fold_constants(editor)
    fix_upsampling(editor, inferred)
    drop_no_ops(editor)
    rewrite_prelu(editor)
    free_reshapes(editor)
    return editor


def _take_bgr(editor: GraphEditor, contract: InputContract) -> None:
    """Let the graph read ``input``, BGR from −1 to 1, in place of what ``contract`` describes."""
    # (127.5 v + 127.5 − mean) · scale in the colour order of the contract.
    factor = np.float32(127.5 * contract.scale)
    shift = np.array([(127.5 - mean) * contract.scale for mean in contract.mean], np.float32).reshape(1, 3, 1, 1)
    tensor = "input"
    steps = []
    if contract.colour is Colour.RGB:
        order = editor.add_constant("colour_order", np.array([2, 1, 0], np.int64))
        steps.append(helper.make_node("Gather", [tensor, order], [tensor := editor.fresh("pixels")], axis=1))
    if abs(factor - 1) > 1e-6:
        constant = editor.add_constant("factor", np.asarray(factor, np.float32))
        steps.append(helper.make_node("Mul", [tensor, constant], [tensor := editor.fresh("pixels")]))
    if np.abs(shift).max() > 1e-6:
        constant = editor.add_constant("shift", shift)
        steps.append(helper.make_node("Add", [tensor, constant], [tensor := editor.fresh("pixels")]))
    editor.redirect(editor.inputs[0].name, tensor)
    editor.nodes[:0] = steps


def _layout_change(editor: GraphEditor, tensor: str) -> onnx.NodeProto | None:
    """The transpose of channels to the end that gives the output ``tensor``, a Softmax behind it or not."""
    node = editor.producer(tensor)
    if node is not None and node.op_type == "Softmax":
        node = editor.producer(node.input[0])
    return node if node is not None and node.op_type == "Transpose" else None


def _declare(editor: GraphEditor, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> None:
    editor.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    editor.outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]


def _serialized(editor: GraphEditor, what: str) -> bytes:
    model = editor.model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WeightsError(f"{what} cannot be rewritten: {str(error).splitlines()[0]}") from error
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized

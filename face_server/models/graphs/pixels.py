"""Folding what a network expects of its pixels into the network.

A prepared network takes uint8 N×H×W×3 BGR. Bytes are transposed (a quarter of the memory traffic of
floats), converted, and the mean is subtracted where it is not zero: before the first convolution,
because the zeros of its padding stand for the mean itself. Scale and colour order cost nothing, they
go into that convolution's weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from face_server.domain.image import Floats
from face_server.models.contract import Colour, InputContract
from face_server.models.graphs.editing import GraphEditor, attributes


def fold_input(editor: GraphEditor, contract: InputContract) -> None:
    """Replace the float N×3×H×W input by uint8 N×H×W×3 BGR named ``contract.tensor``."""
    tensor, mean, scale = _absorb_arithmetic(editor, editor.inputs[0].name, np.array(contract.mean, np.float32), contract.scale)
    readers = editor.consumers(tensor)
    reorder = contract.colour is Colour.RGB
    if len(readers) == 1 and _is_first_convolution(editor, readers[0]):
        if reorder or scale != 1.0:
            weights = editor.constants[readers[0].input[1]]
            ordered = weights[:, ::-1] if reorder else weights
            readers[0].input[1] = editor.add_constant("pixel_weight", np.asarray(ordered * np.float32(scale), np.float32))
        mean, reorder, scale = mean[::-1] if reorder else mean, False, 1.0
    editor.nodes[:0] = _to_planes(editor, contract.tensor, tensor, reorder=reorder, mean=mean, scale=scale)
    side = contract.size_px
    editor.inputs = [helper.make_tensor_value_info(contract.tensor, TensorProto.UINT8, ["N", side or "H", side or "W", 3])]


def _absorb_arithmetic(editor: GraphEditor, tensor: str, mean: Floats, scale: float) -> tuple[str, Floats, float]:
    """Take Sub and Mul by a scalar that open the graph into ``mean`` and ``scale``."""
    while True:
        readers = editor.consumers(tensor)
        constant = editor.constants.get(readers[0].input[1]) if len(readers) == 1 and len(readers[0].input) == 2 else None
        if constant is None or constant.size != 1 or readers[0].op_type not in {"Sub", "Mul"}:
            return tensor, mean, scale
        value = np.float32(constant.reshape(()))
        if readers[0].op_type == "Sub":
            mean = mean + value / np.float32(scale)
        else:
            scale = float(scale * value)
        tensor = readers[0].output[0]
        editor.drop(readers[0])


def _is_first_convolution(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is an ungrouped convolution of three channels with constant weights."""
    weights = editor.constants.get(node.input[1]) if node.op_type == "Conv" else None
    return weights is not None and weights.shape[1] == 3 and attributes(node).get("group", 1) == 1


def _to_planes(editor: GraphEditor, source: str, target: str, *, reorder: bool, mean: Floats, scale: float) -> list[onnx.NodeProto]:
    """uint8 N×H×W×3 to float N×3×H×W; ``mean`` is in the order of the result."""
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Transpose", [], {"perm": [0, 3, 1, 2]})]
    if reorder:
        steps.append(("Gather", [editor.add_constant("colour_order", np.array([2, 1, 0], np.int64))], {"axis": 1}))
    steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if mean.any():
        shape = () if np.ptp(mean) == 0 else (1, 3, 1, 1)
        steps.append(("Sub", [editor.add_constant("mean", np.array(mean[:1] if shape == () else mean).reshape(shape))], {}))
    if scale != 1.0:
        steps.append(("Mul", [editor.add_constant("scale", np.asarray(scale, np.float32))], {}))
    tensors = [source, *(editor.fresh("pixels") for _ in steps[1:]), target]
    return [
        helper.make_node(operator, [tensors[index], *constants], [tensors[index + 1]], **settings)
        for index, (operator, constants, settings) in enumerate(steps)
    ]

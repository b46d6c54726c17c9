"""Constant folding: quantised weights become float weights, shape arithmetic becomes numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from face_server.models.graphs.editing import GraphEditor, attributes


def dequantize(
    quantized: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any] | None, *, axis: int = 1, block_size: int = 0
) -> NDArray[np.float32]:
    """``(quantized − zero_point) · scale`` as ONNX DequantizeLinear-21 defines it.

    ``scale`` is a scalar, one value per index of ``axis``, or, with ``block_size``, one value per
    block of that many neighbours along ``axis``.
    """

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        if values.size == 1:
            return values.reshape(())
        if block_size:
            repeated = np.repeat(values, block_size, axis=axis)
            return np.take(repeated, range(quantized.shape[axis]), axis=axis)
        shape = [1] * quantized.ndim
        shape[axis] = -1
        return values.reshape(shape)

    shifted = quantized.astype(np.float32)
    if zero_point is not None:
        shifted = shifted - spread(zero_point.astype(np.float32))
    return np.asarray(shifted * spread(scale.astype(np.float32)), np.float32)


def fold_constants(editor: GraphEditor) -> None:
    """Turn Constant nodes, DequantizeLinear of constants and Reshape of constants into initializers."""
    for node in list(editor.nodes):
        value = _folded(editor, node)
        if value is not None:
            editor.constants[node.output[0]] = value
            editor.drop(node)


def _folded(editor: GraphEditor, node: onnx.NodeProto) -> NDArray[Any] | None:
    inputs = [editor.constants.get(name) for name in node.input]
    settings = attributes(node)
    if node.op_type == "Constant":
        return numpy_helper.to_array(settings["value"]) if "value" in settings else None
    if not inputs or inputs[0] is None or any(value is None for value in inputs):
        return None
    if node.op_type == "DequantizeLinear":
        scale, zero_point = inputs[1], inputs[2] if len(inputs) > 2 else None
        assert scale is not None
        return dequantize(inputs[0], scale, zero_point, axis=settings.get("axis", 1), block_size=settings.get("block_size", 0))
    if node.op_type == "Reshape":
        assert inputs[1] is not None
        shape = [inputs[0].shape[i] if size == 0 else int(size) for i, size in enumerate(inputs[1])]
        return inputs[0].reshape(shape)
    return None


def fix_upsampling(editor: GraphEditor, inferred: onnx.ModelProto) -> None:
    """Replace upsampling factors computed from a baked-in target size by the factors themselves.

    Some exports compute them as target ÷ Shape(x), which is right for one input size only.
    ``inferred`` is the untouched model with its static shapes inferred.
    """
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info}
    for node in editor.nodes:
        if node.op_type == "Upsample" and node.input[1] not in editor.constants:
            scales = _evaluate(editor, node.input[1], shapes)
            if scales is not None and np.isfinite(scales).all() and (scales > 0).all():
                node.input[1] = editor.add_constant("scales", scales.astype(np.float32))


def _evaluate(editor: GraphEditor, tensor: str, shapes: dict[str, list[int]]) -> NDArray[Any] | None:
    """The value of ``tensor`` under static ``shapes`` (0 where unknown); None when it depends on anything else."""
    if tensor in editor.constants:
        return editor.constants[tensor]
    node = editor.producer(tensor)
    if node is None:
        return None
    if node.op_type == "Shape":
        return np.array(shapes.get(node.input[0], [0, 0, 0, 0]), np.int64)
    inputs = [_evaluate(editor, name, shapes) for name in node.input]
    known = [value for value in inputs if value is not None]
    if len(known) != len(inputs):
        return None
    settings = attributes(node)
    if node.op_type == "Slice" and "starts" in settings:
        return known[0][slice(settings["starts"][0], settings["ends"][0])]
    if node.op_type == "Cast":
        return known[0].astype(onnx.helper.tensor_dtype_to_np_dtype(settings["to"]))
    if node.op_type == "Div":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(known[0] / known[1])
    if node.op_type == "Concat":
        return np.concatenate(known, axis=settings["axis"])
    return None

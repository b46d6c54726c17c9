"""Rewrites that leave a network's arithmetic as it is: activations, dead weight, free dimensions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from face_server.models.graphs.editing import GraphEditor, attributes

# N, H, W, C and H, W, N, C: how exporters lay out per-anchor heads before flattening them. The
# second is what a batch of one allows.
_HEAD_LAYOUTS = ([0, 2, 3, 1], [2, 3, 0, 1])


def drop_no_ops(editor: GraphEditor) -> None:
    """Remove Dropout and Identity nodes: at inference both copy their input."""
    for node in list(editor.nodes):
        if node.op_type in {"Dropout", "Identity"} and not editor.is_output(node.output[0]):
            editor.redirect(node.output[0], node.input[0])
            editor.drop(node)


def rewrite_prelu(editor: GraphEditor) -> None:
    """Write PRelu(x) as a·x + (1 − a)·relu(x), the products as depthwise 1×1 convolutions.

    ONNX Runtime runs PRelu outside its blocked layout and, since 1.27, about nine times slower than
    before; the two convolutions and the sum fuse and stay in that layout.
    """
    for node in list(editor.nodes):
        slope = editor.constants.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.ndim not in {1, 3, 4} or slope.shape[-2:] not in {(1, 1), slope.shape}:
            continue
        source, target = node.input[0], node.output[0]
        factors = slope.astype(np.float32).reshape(-1, 1, 1, 1)
        if factors.shape[0] == 1:
            continue
        kept = editor.add_constant(f"{target}_slope", factors)
        added = editor.add_constant(f"{target}_rest", np.float32(1.0) - factors)
        positive, left, right = editor.fresh(f"{target}_relu"), editor.fresh(f"{target}_left"), editor.fresh(f"{target}_right")
        group = factors.shape[0]
        editor.replace(
            node,
            [
                helper.make_node("Relu", [source], [positive]),
                helper.make_node("Conv", [source, kept], [left], kernel_shape=[1, 1], group=group),
                helper.make_node("Conv", [positive, added], [right], kernel_shape=[1, 1], group=group),
                helper.make_node("Add", [left, right], [target]),
            ],
        )


def free_reshapes(editor: GraphEditor) -> None:
    """Let every Reshape that was exported for a batch of one, or that computes the batch, copy it.

    Flattened heads become N × anchors × values, also where a batch of one was exported as a
    transpose that puts the batch behind height and width. The flattening before a fully connected
    layer becomes N × n.
    """
    for node in editor.nodes:
        if node.op_type != "Reshape" or node.input[0] in editor.constants:
            continue
        shape = _reshape_target(editor, node.input[1])
        if shape is None:
            continue
        before = editor.producer(node.input[0])
        if before is not None and before.op_type == "Transpose" and attributes(before)["perm"] in _HEAD_LAYOUTS:
            for attribute in before.attribute:
                attribute.ints[:] = _HEAD_LAYOUTS[0]
            node.input[1] = editor.add_constant("head_shape", np.array([0, -1, shape[-1]], np.int64))
        elif len(shape) == 2 and shape[0] in {0, 1}:
            node.input[1] = editor.add_constant("flat_shape", np.array([0, -1], np.int64))


def _reshape_target(editor: GraphEditor, tensor: str) -> list[int] | None:
    """The target shape of a Reshape, 0 for a computed batch; None when other parts are computed."""
    if tensor in editor.constants:
        return [int(size) for size in editor.constants[tensor]]
    concat = editor.producer(tensor)
    if concat is None or concat.op_type != "Concat" or any(name not in editor.constants for name in concat.input[1:]):
        return None
    node = editor.producer(concat.input[0])
    if node is not None and node.op_type == "Unsqueeze":
        node = editor.producer(node.input[0])
    if node is None or node.op_type != "Gather" or node.input[1] not in editor.constants or editor.constants[node.input[1]].any():
        return None
    rest = [int(size) for name in concat.input[1:] for size in np.ravel(editor.constants[name])]
    return [0, *rest]


def declare_outputs(editor: GraphEditor, names: tuple[str, ...]) -> None:
    """Give the first outputs, in the order published, clear ``names`` and cut off the others."""
    editor.outputs = editor.outputs[: len(names)]
    for index, value in enumerate(list(editor.outputs)):
        # A published name may equal a new name of another output: two steps, no clash.
        editor.rename_output(value.name, f"{names[index]}__renaming")
    for name, value in zip(names, list(editor.outputs), strict=True):
        editor.rename_output(value.name, name)
    editor.outputs = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

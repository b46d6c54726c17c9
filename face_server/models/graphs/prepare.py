"""From a published ONNX file to a prepared network."""

from __future__ import annotations

import onnx

from face_server.domain.network import TensorSpec
from face_server.errors import WeightsError
from face_server.models.contract import Recipe
from face_server.models.graphs.constants import fix_upsampling, fold_constants
from face_server.models.graphs.editing import GraphEditor, live_inputs, load
from face_server.models.graphs.pixels import fold_input
from face_server.models.graphs.rewrites import declare_outputs, drop_no_ops, free_reshapes, rewrite_prelu

RECIPE = 2
"""Counts changes of the repairs below; a file prepared by another recipe is prepared again."""


def prepare(data: bytes, recipe: Recipe, what: str) -> bytes:
    """Repair the ONNX file ``data``; the same bytes come out each time.

    Weights become plain float32 initializers, the batch (and, for detectors, height and width)
    become free, PRelu becomes convolutions, the input becomes uint8 N×H×W×3 BGR and the outputs
    get the names of ``recipe``. Raises WeightsError naming ``what`` if the graph breaks the recipe.
    """
    source = load(data, what)
    _require_shape(source, recipe, what)
    inferred = onnx.shape_inference.infer_shapes(source)
    editor = GraphEditor(source)
    fold_constants(editor)
    fix_upsampling(editor, inferred)
    drop_no_ops(editor)
    rewrite_prelu(editor)
    free_reshapes(editor)
    declare_outputs(editor, recipe.outputs)
    fold_input(editor, recipe.contract)
    result = editor.model()
    try:
        _declare_shapes(result)
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WeightsError(f"{what} cannot be prepared: {str(error).splitlines()[0]}") from error
    serialized: bytes = result.SerializeToString(deterministic=True)
    return serialized


def _require_shape(model: onnx.ModelProto, recipe: Recipe, what: str) -> None:
    inputs = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in live_inputs(model)]
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] not in {0, 3}:
        raise WeightsError(f"{what} must take one picture tensor N×3×H×W, it takes {inputs}")
    found = len(model.graph.output)
    if found < len(recipe.outputs) or (found > len(recipe.outputs) and not recipe.surplus):
        expected = f"{len(recipe.outputs)} outputs ({', '.join(recipe.outputs)})"
        raise WeightsError(f"{what} must have {expected}, it has {found}")


def _declare_shapes(model: onnx.ModelProto) -> None:
    """Write the inferred shapes of the outputs into ``model``; the first dimension is the batch."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for declared, known in zip(model.graph.output, inferred.graph.output, strict=True):
        declared.type.CopyFrom(known.type)
        batch = declared.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_param = "N"


def tensor_specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """The contract of graph inputs or outputs in numpy's words."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_value or None for dim in tensor.shape.dim)
        specs.append(TensorSpec(value.name, dtype, shape))
    return tuple(specs)

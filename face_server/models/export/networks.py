"""Networks of the catalogue as models of a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx

from face_server.domain.network import Network, TensorSpec, served_name
from face_server.models.catalog import CatalogEntry
from face_server.models.contract import Task
from face_server.models.export.config import ModelConfig
from face_server.models.export.folder import CONFIG, NOTE, SHAPES, VERSION, WEIGHTS, ModelFolder
from face_server.models.export.options import ExportOptions, Platform
from face_server.models.export.sources import Origin, origin_of
from face_server.models.families import family_of
from face_server.models.graphs.editing import GraphEditor

IN_PYTHON: Final = b"from face_server.in_triton.network import TritonPythonModel\n"

DETECTOR_BATCH: Final = 8
EMBEDDER_BATCH: Final = 32

_USUAL_BATCH: Final[Mapping[Task, int]] = {Task.DETECTOR: DETECTOR_BATCH, Task.EMBEDDER: EMBEDDER_BATCH}
_SAMPLE_SIDE_PX: Final = 640
_LARGEST_SIDE_PX: Final = 1280

Shapes = Mapping[str, tuple[int, ...]]
"""A shape by input name, batch first."""


def catalogue_model(entry: CatalogEntry, network: Network, options: ExportOptions) -> ModelFolder:
    """A network of the catalogue: its own tensors, batches along their first dimension."""
    max_batch = options.batch(_USUAL_BATCH[entry.task])
    contract = family_of(entry.family).recipe.contract
    side = contract.size_px or _SAMPLE_SIDE_PX
    batches = (1,) if options.on_cpu or max_batch == 1 else (1, max_batch)
    config = ModelConfig(
        name=served_name(network.name),
        runs_on=options.platform.value,
        max_batch=max_batch,
        inputs=[_without_batch(spec) for spec in network.inputs],
        outputs=[_without_batch(spec) for spec in network.outputs],
        instances=options.network_instances(),
        gathering=options.gathering(max_batch),
        warm_up=[{contract.tensor: (batch, side, side, 3)} for batch in batches],
        parameters={**origin_of(entry).parameters(), **options.runtime_parameters()},
        accelerator=options.accelerator(),
    )
    smallest, largest = (contract.size_px, contract.size_px) if contract.size_px else (contract.stride, _LARGEST_SIDE_PX)
    ranges = (
        {contract.tensor: (1, smallest, smallest, 3)},
        {contract.tensor: (max(1, max_batch // 2), side, side, 3)},
        {contract.tensor: (max_batch, largest, largest, 3)},
    )
    graph: bytes | Path = network.path
    if options.platform is Platform.TENSORRT:
        graph = convert_first(network.path.read_bytes())
    return network_folder(config, graph, origin_of(entry), options.platform, ranges)


def network_folder(
    config: ModelConfig, graph: bytes | Path | None, origin: Origin, platform: Platform, ranges: tuple[Shapes, Shapes, Shapes]
) -> ModelFolder:
    """The folder of a network on ``platform``; without ``graph`` its weights are left to the user.

    TensorRT builds its engine from the graph beside ``config.pbtxt``, within the smallest, usual
    and largest shapes of ``ranges``.
    """
    files: dict[str, bytes | Path] = {CONFIG: config.text().encode(), NOTE: origin.note(config.name)}
    if config.labels:
        files[next(iter(config.labels.values()))] = b"face\n"
    if platform is Platform.TENSORRT:
        files[SHAPES] = trtexec_arguments(ranges)
    if platform is Platform.PYTHON:
        files[f"{VERSION}/model.py"] = IN_PYTHON
    if graph is not None:
        files[WEIGHTS if platform is Platform.TENSORRT else f"{VERSION}/{WEIGHTS}"] = graph
    return ModelFolder(config.name, files)


def trtexec_arguments(ranges: tuple[Shapes, Shapes, Shapes]) -> bytes:
    """The shape ranges for trtexec, one argument a line."""
    lines = []
    for option, shapes in zip(("min", "opt", "max"), ranges, strict=True):
        listed = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        lines.append(f"--{option}Shapes={listed}\n")
    return "".join(lines).encode()


def convert_first(prepared: bytes) -> bytes:
    """A prepared network whose bytes become floats before anything else.

    TensorRT takes uint8 as input of a network but computes nothing with it, not even a transpose.
    """
    editor = GraphEditor(onnx.load_model_from_string(prepared))
    source = editor.inputs[0].name
    cast = next(node for node in editor.nodes if node.op_type == "Cast")
    editor.redirect(cast.output[0], cast.input[0])
    editor.drop(cast)
    floats = editor.fresh("floats")
    editor.redirect(source, floats)
    cast.input[0], cast.output[0] = source, floats
    editor.nodes.insert(0, cast)
    serialized: bytes = editor.model().SerializeToString(deterministic=True)
    return serialized


def _without_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape[1:])

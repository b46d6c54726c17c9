"""Model repositories for the pipelines, as small as their tests need them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from face_server.domain import face_pipeline, video_pipeline
from face_server.domain.network import Network, TensorSpec, served_name
from face_server.models.embedder import model_id
from face_server.models.weights import WeightsStore

MAX_BATCH = 16

_TYPES = {"float32": "FP32", "object": "STRING"}


def network_model(network: Network, repository: Path, *, instances: int) -> None:
    """A network on the Python backend, unless it is there already."""
    if (repository / served_name(network.name)).exists():
        return
    tensors = _tensors("input", [spec_without_batch(spec) for spec in network.inputs])
    tensors += _tensors("output", [spec_without_batch(spec) for spec in network.outputs])
    folder = _model(repository, served_name(network.name), "network", MAX_BATCH, tensors, instances=instances)
    (folder / "model.onnx").symlink_to(network.path)


def pipeline_models(
    repository: Path, weights: WeightsStore, detector: str, embedder: str, *, instances: int = 2, **parameters: object
) -> None:
    """``face_pipeline`` and ``video_pipeline`` over ``detector`` and ``embedder``, and these two."""
    networks = [weights.network(detector), weights.network(embedder)]
    for network in networks:
        network_model(network, repository, instances=instances)
    dimension = model_id(weights.entry(embedder), networks[1]).dimension
    content = networks_json(weights, detector, embedder)
    for wire, policy in ((face_pipeline, ""), (video_pipeline, "model_transaction_policy { decoupled: true }\n")):
        optional = {spec.name for spec in wire.INPUTS} - {"video"}
        tensors = _tensors("input", wire.INPUTS, optional) + _tensors("output", wire.outputs(dimension)) + policy
        folder = _model(repository, wire.NAME, wire.NAME, 0, tensors, instances=instances, parameters=parameters)
        (folder / "networks.json").write_text(content)


def align_models(repository: Path, weights: WeightsStore, detector: str, embedder: str, size: tuple[int, int]) -> None:
    """The ensemble ``fixed_frames`` of ``detector``, ``face_align`` and ``embedder`` for frames of ``size`` (width, height)."""
    networks = [weights.network(detector), weights.network(embedder)]
    for network in networks:
        network_model(network, repository, instances=1)
    frame = TensorSpec("frame", "uint8", (1, size[1], size[0], 3))
    raw = [TensorSpec(spec.name, spec.dtype, (1, *spec.shape[1:])) for spec in networks[0].outputs]
    faces = [
        TensorSpec("crops", "uint8", (None, 112, 112, 3)),
        TensorSpec("boxes", "float32", (None, 4)),
        TensorSpec("scores", "float32", (None,)),
        TensorSpec("landmarks", "float32", (None, 5, 2)),
        TensorSpec("count", "int32", (1,)),
    ]
    tensors = _tensors("input", [frame, *raw]) + _tensors("output", faces)
    folder = _model(repository, "face_align", "face_align", 0, tensors, instances=1, parameters={"max_faces": MAX_BATCH})
    (folder / "networks.json").write_text(networks_json(weights, detector, embedder))
    features = networks[1].outputs[0]
    steps = [
        _step(served_name(detector), {networks[0].inputs[0].name: "frame"}, {spec.name: f"raw_{spec.name}" for spec in raw}),
        _step(
            "face_align",
            {"frame": "frame"} | {spec.name: f"raw_{spec.name}" for spec in raw},
            {spec.name: spec.name for spec in faces},
        ),
        _step(served_name(embedder), {networks[1].inputs[0].name: "crops"}, {features.name: features.name}),
    ]
    (repository / "fixed_frames" / "1").mkdir(parents=True)
    tensors = _tensors("input", [frame]) + _tensors("output", [*faces, features])
    text = (
        f'name: "fixed_frames"\nplatform: "ensemble"\nmax_batch_size: 0\n{tensors}ensemble_scheduling {{ step [ {", ".join(steps)} ] }}\n'
    )
    (repository / "fixed_frames" / "config.pbtxt").write_text(text)


def networks_json(weights: WeightsStore, detector: str, embedder: str) -> str:
    """What an export writes for the pipelines."""
    networks = {name: weights.network(name) for name in (detector, embedder)}
    specs = {
        name: {"inputs": [asdict(spec) for spec in network.inputs], "outputs": [asdict(spec) for spec in network.outputs]}
        for name, network in networks.items()
    }
    return json.dumps({"detector": asdict(weights.entry(detector)), "embedder": asdict(weights.entry(embedder)), "networks": specs})


def spec_without_batch(spec: TensorSpec) -> TensorSpec:
    """The tensor as ``config.pbtxt`` declares it where Triton adds the batch."""
    return TensorSpec(spec.name, spec.dtype, spec.shape[1:])


def _model(
    repository: Path,
    name: str,
    module: str,
    max_batch: int,
    tensors: str,
    *,
    instances: int,
    parameters: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(f"from face_server.in_triton.{module} import TritonPythonModel\n")
    text = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch}\n{tensors}'
    text += f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]\n"
    for key, value in parameters.items():
        text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    (folder.parent / "config.pbtxt").write_text(text)
    return folder


def _tensors(kind: str, specs: Sequence[TensorSpec], optional: set[str] = frozenset()) -> str:
    lines = ""
    for spec in specs:
        dims = ", ".join(str(-1 if size is None else size) for size in spec.shape)
        may_lack = " optional: true" if spec.name in optional else ""
        lines += (
            f'{kind} [ {{ name: "{spec.name}" data_type: TYPE_{_TYPES.get(spec.dtype, spec.dtype.upper())} dims: [{dims}]{may_lack} }} ]\n'
        )
    return lines


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    maps = " ".join(f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items())
    maps += " " + " ".join(f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items())
    return f'{{ model_name: "{model}" model_version: -1 {maps} }}'

"""Models that are more than one network: face_pipeline, video_pipeline, and an ensemble without scripting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from face_server.domain import face_pipeline, video_pipeline
from face_server.domain.alignment import CROP_SIZE_PX
from face_server.domain.network import Network, TensorSpec, served_name
from face_server.errors import ConfigurationError
from face_server.models.catalog import CatalogEntry
from face_server.models.embedder import model_id
from face_server.models.export.config import ModelConfig, Step
from face_server.models.export.folder import CONFIG, NOTE, VERSION, ModelFolder
from face_server.models.export.networks import EMBEDDER_BATCH
from face_server.models.export.options import ExportOptions
from face_server.models.families import family_of

ENSEMBLE: Final = "face_ensemble"
ALIGN: Final = "face_align"

_GPU_CALL: Final = 16
_PYTHON: Final = "from face_server.in_triton.{module} import TritonPythonModel\n"


@dataclass(frozen=True, slots=True)
class Called:
    """A catalogue network that pipelines call."""

    entry: CatalogEntry
    network: Network


def pipeline_models(detector: Called, embedder: Called, options: ExportOptions) -> list[ModelFolder]:
    """Everything that calls ``detector`` and ``embedder`` by their names on the server."""
    single = [_face_pipeline(detector, embedder, options), _video_pipeline(detector, embedder, options)]
    return [*single, *_ensemble(detector, embedder, options)]


def _face_pipeline(detector: Called, embedder: Called, options: ExportOptions) -> ModelFolder:
    """One picture a request, no batch; calls the networks from within (business logic scripting), or runs them itself."""
    model = model_id(embedder.entry, embedder.network)
    config = ModelConfig(
        name=face_pipeline.NAME,
        runs_on="python",
        max_batch=0,
        inputs=face_pipeline.INPUTS,
        outputs=face_pipeline.outputs(model.dimension),
        optional=frozenset(spec.name for spec in face_pipeline.INPUTS),
        instances=options.pipeline_instances(),
        parameters={
            **_roles(detector, embedder),
            **_calls(options),
            "max_bytes": str(options.max_bytes),
            "max_pixels": str(options.max_pixels),
        },
        comment="One of encoded, frame and crops makes a request.",
    )
    return _python_folder(config, "face_pipeline", detector, embedder)


def _video_pipeline(detector: Called, embedder: Called, options: ExportOptions) -> ModelFolder:
    """Decodes a video itself and answers once for each analysed frame."""
    config = ModelConfig(
        name=video_pipeline.NAME,
        runs_on="python",
        max_batch=0,
        inputs=video_pipeline.INPUTS,
        outputs=video_pipeline.outputs(model_id(embedder.entry, embedder.network).dimension),
        optional=frozenset({"options"}),
        instances=options.pipeline_instances(),
        parameters={**_roles(detector, embedder), **_calls(options), "max_pixels": str(options.max_pixels)},
        decoupled=True,
    )
    return _python_folder(config, "video_pipeline", detector, embedder)


def _ensemble(detector: Called, embedder: Called, options: ExportOptions) -> list[ModelFolder]:
    """Detector, alignment and embedder as an ensemble: no scripting, frames of one size."""
    width, height = options.frame_size
    stride = family_of(detector.entry.family).recipe.contract.stride
    if width % stride or height % stride or min(width, height) < stride:
        raise ConfigurationError(f"frames of {ENSEMBLE} must have sides that are multiples of {stride}, not {width}×{height}")
    frame = TensorSpec("frame", "uint8", (1, height, width, 3))
    found = [spec for spec in face_pipeline.outputs(0) if spec.name in {"boxes", "scores", "landmarks"}]
    found.append(TensorSpec("count", "int32", (1,)))
    crops = TensorSpec("crops", "uint8", (None, CROP_SIZE_PX, CROP_SIZE_PX, 3))
    features = TensorSpec("features", "float32", embedder.network.outputs[0].shape)
    max_faces = options.batch(EMBEDDER_BATCH)
    min_score_percent = round(100 * detector.entry.detection_score)
    align = ModelConfig(
        name=ALIGN,
        runs_on="python",
        max_batch=0,
        inputs=[frame, *detector.network.outputs],
        outputs=[*found, crops],
        instances=options.pipeline_instances(),
        parameters={**_roles(detector, embedder), "max_faces": str(max_faces), "min_score_percent": str(min_score_percent)},
        comment=f"Between the detector and the embedder of {ENSEMBLE}.",
    )
    whole = ModelConfig(
        name=ENSEMBLE,
        runs_on="ensemble",
        max_batch=0,
        inputs=[frame],
        outputs=[*found, features],
        steps=_steps(detector, embedder, found),
        parameters=_roles(detector, embedder),
        comment=(
            f"Frames of {width}×{height} pixels in BGR; at most {max_faces} faces, highest score first.\n"
            "The first `count` rows of every output are faces: a frame without any gives one row of zeros."
        ),
    )
    folder = ModelFolder(ENSEMBLE, {CONFIG: whole.text().encode(), NOTE: _note(ENSEMBLE, detector, embedder), f"{VERSION}/.gitkeep": b""})
    return [_python_folder(align, "face_align", detector, embedder), folder]


def _steps(detector: Called, embedder: Called, found: Sequence[TensorSpec]) -> list[Step]:
    between = {spec.name: f"raw_{spec.name}" for spec in detector.network.outputs}
    seen, known = family_of(detector.entry.family).recipe.contract, family_of(embedder.entry.family).recipe
    return [
        Step(served_name(detector.entry.name), {seen.tensor: "frame"}, between),
        Step(ALIGN, {"frame": "frame", **between}, {**{spec.name: spec.name for spec in found}, "crops": "crops"}),
        Step(served_name(embedder.entry.name), {known.contract.tensor: "crops"}, {known.outputs[0]: "features"}),
    ]


def _python_folder(config: ModelConfig, module: str, detector: Called, embedder: Called) -> ModelFolder:
    files: dict[str, bytes | Path] = {
        CONFIG: config.text().encode(),
        NOTE: _note(config.name, detector, embedder),
        f"{VERSION}/model.py": _PYTHON.format(module=module).encode(),
        f"{VERSION}/networks.json": _networks(detector, embedder),
    }
    return ModelFolder(config.name, files)


def _networks(detector: Called, embedder: Called) -> bytes:
    """What a model must know of the networks it works with, without a weights store."""
    content = {
        "detector": asdict(detector.entry),
        "embedder": asdict(embedder.entry),
        "networks": {one.entry.name: _tensors(one.network) for one in (detector, embedder)},
    }
    return f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode()


def _tensors(network: Network) -> Mapping[str, object]:
    return {"inputs": [asdict(spec) for spec in network.inputs], "outputs": [asdict(spec) for spec in network.outputs]}


def _roles(detector: Called, embedder: Called) -> dict[str, str]:
    model = model_id(embedder.entry, embedder.network)
    return {"detector": served_name(detector.entry.name), "embedder": served_name(embedder.entry.name), "embeddings": str(model)}


def _calls(options: ExportOptions) -> dict[str, str]:
    """Who runs the networks, and how the faces of a picture reach the embedder: on CPUs one by one, so that its instances share them."""
    networks = {"networks": "bls" if options.calls_networks else "here"}
    if options.on_cpu:
        return {**networks, "embed_batch": "1", "embed_calls": str(options.network_instances().count)}
    return {**networks, "embed_batch": str(options.batch(_GPU_CALL))}


def _note(model: str, detector: Called, embedder: Called) -> bytes:
    names = f"{served_name(detector.entry.name)} and {served_name(embedder.entry.name)}"
    return f"{model} has no weights of its own; it works with the models {names} of this repository.\n".encode()

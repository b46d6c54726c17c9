"""Models under the names, with the tensors, that clients of three other systems expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from face_server.domain.network import TensorSpec, served_name
from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry
from face_server.models.embedder import model_id
from face_server.models.export import graphs
from face_server.models.export.config import ModelConfig, Step
from face_server.models.export.folder import CONFIG, LABELS, NOTE, VERSION, ModelFolder
from face_server.models.export.mtcnn import LISTED, STAGES, MtcnnNetwork, stage_graph
from face_server.models.export.networks import DETECTOR_BATCH, network_folder
from face_server.models.export.options import ExportOptions
from face_server.models.export.pipelines import Called
from face_server.models.export.sources import Origin, origin_of
from face_server.models.families import embedder_family, family_of
from face_server.models.sources import sha256_of

ENSEMBLE_SCRFD: Final = "ensemble_scrfd"
FACE_RECOG: Final = "face_recog"
FACENET: Final = "facenet"
CENTERFACE: Final = "centerface"

EXPECTED_DIMENSION: Final = 512
"""What clients of ``face_recog`` count on."""

_SIDE_PX: Final = 640
_RECOG_BATCH: Final = 8
_FACENET_BATCH: Final = 16


def ensemble_scrfd(detector: Called, options: ExportOptions) -> ModelFolder:
    """``images`` uint8 1×640×640×3 BGR to nine outputs: a name for the SCRFD network of the repository."""
    rows = {"8": 12800, "16": 3200, "32": 800}
    outputs = [
        TensorSpec(f"{kind}_{stride}", "float32", (count, values))
        for kind, values in (("score", 1), ("bbox", 4), ("kps", 10))
        for stride, count in rows.items()
    ]
    names = {spec.name: spec.name for spec in outputs}
    contract = family_of(detector.entry.family).recipe.contract
    config = ModelConfig(
        name=ENSEMBLE_SCRFD,
        runs_on="ensemble",
        max_batch=options.batch(DETECTOR_BATCH),
        inputs=[TensorSpec("images", "uint8", (_SIDE_PX, _SIDE_PX, 3))],
        outputs=outputs,
        steps=[Step(served_name(detector.entry.name), {contract.tensor: "images"}, names)],
        parameters=origin_of(detector.entry).parameters(),
    )
    note = origin_of(detector.entry).note(ENSEMBLE_SCRFD)
    return ModelFolder(ENSEMBLE_SCRFD, {CONFIG: config.text().encode(), NOTE: note, f"{VERSION}/.gitkeep": b""})


def face_recog(embedder: Called, published: bytes, options: ExportOptions) -> ModelFolder:
    """``input`` float32 N×3×112×112, BGR from −1 to 1, to ``features`` of length 1 and ``norms``."""
    dimension = model_id(embedder.entry, embedder.network).dimension
    recipe = embedder_family(embedder.entry.family).recipe
    graph = graphs.recogniser(published, recipe, dimension, f"the file of {embedder.entry.name}")
    max_batch = options.batch(_RECOG_BATCH)
    config = ModelConfig(
        name=FACE_RECOG,
        runs_on=options.platform.value,
        max_batch=max_batch,
        inputs=[TensorSpec("input", "float32", (3, 112, 112))],
        outputs=[TensorSpec("features", "float32", (dimension,)), TensorSpec("norms", "float32", (1,))],
        instances=options.network_instances(),
        gathering=options.gathering(max_batch),
        warm_up=[{"input": (1, 3, 112, 112)}],
        parameters={**origin_of(embedder.entry).parameters(), **options.runtime_parameters()},
        accelerator=options.accelerator(),
    )
    usual = max(1, max_batch // 2)
    ranges = ({"input": (1, 3, 112, 112)}, {"input": (usual, 3, 112, 112)}, {"input": (max_batch, 3, 112, 112)})
    return network_folder(config, graph, origin_of(embedder.entry), options.platform, ranges)


def centerface(entry: CatalogEntry, published: bytes, options: ExportOptions) -> ModelFolder:
    """``input.1`` float32 N×3×480×640, RGB 0..255, to heatmap 537, scale 538, offset 539 and landmarks 540."""
    config = ModelConfig(
        name=CENTERFACE,
        runs_on=options.platform.value,
        max_batch=0,
        inputs=[TensorSpec("input.1", "float32", (None, 3, 480, 640))],
        outputs=[
            TensorSpec(name, "float32", (None, channels, 120, 160)) for name, channels in {"537": 1, "538": 2, "539": 2, "540": 10}.items()
        ],
        instances=options.network_instances(),
        warm_up=[{"input.1": (1, 3, 480, 640)}],
        parameters={**origin_of(entry).parameters(), **options.runtime_parameters()},
        accelerator=options.accelerator(),
        labels={"537": LABELS},
    )
    ranges = ({"input.1": (1, 3, 480, 640)}, {"input.1": (1, 3, 480, 640)}, {"input.1": (DETECTOR_BATCH, 3, 480, 640)})
    graph = graphs.centerface(published, f"the file of {entry.name}")
    return network_folder(config, graph, origin_of(entry), options.platform, ranges)


def mtcnn_models(folder: Path, search_paths: Sequence[Path], options: ExportOptions) -> list[ModelFolder]:
    """pnet, rnet and onet; their weights are fetched into ``folder`` unless they are there."""
    return [_stage(stage, stage_graph(stage, folder, search_paths), options) for stage in STAGES]


def facenet(options: ExportOptions) -> ModelFolder:
    """The user's own FaceNet; only its configuration where no file was given."""
    graph, digest = None, ""
    if options.facenet is not None:
        try:
            graph = graphs.facenet(options.facenet.read_bytes(), f"{options.facenet.name}")
            digest = sha256_of(options.facenet)
        except OSError as error:
            raise WeightsError(f"{options.facenet} cannot be read: {error.strerror or error}") from error
    origin = Origin(FACENET, digest, "unknown", False, "your own file: face-server models export … --facenet FILE")
    config = ModelConfig(
        name=FACENET,
        runs_on=options.platform.value,
        max_batch=_FACENET_BATCH,
        inputs=[TensorSpec("input_1", "float32", (160, 160, 3))],
        outputs=[TensorSpec("Bottleneck_BatchNorm", "float32", (128,))],
        instances=options.network_instances(),
        parameters={**origin.parameters(), **options.runtime_parameters()},
        accelerator=options.accelerator(),
    )
    ranges = ({"input_1": (1, 160, 160, 3)}, {"input_1": (8, 160, 160, 3)}, {"input_1": (_FACENET_BATCH, 160, 160, 3)})
    return network_folder(config, graph, origin, options.platform, ranges)


def _stage(stage: MtcnnNetwork, graph: bytes, options: ExportOptions) -> ModelFolder:
    origin = origin_of(stage.entry)
    outputs = [
        TensorSpec(name, "float32", tuple(size if isinstance(size, int) else None for size in stage.outputs[name][1:]))
        for name in LISTED[stage.entry.name]
    ]
    config = ModelConfig(
        name=stage.entry.name,
        runs_on=options.platform.value,
        max_batch=stage.max_batch,
        inputs=[TensorSpec("input_1", "float32", (stage.side, stage.side, 3))],
        outputs=outputs,
        instances=options.network_instances(),
        warm_up=[{"input_1": (1, stage.usual[1], stage.usual[1], 3)}],
        parameters={**origin.parameters(), **options.runtime_parameters()},
        accelerator=options.accelerator(),
    )
    smallest, usual, largest = ({"input_1": (batch, side, side, 3)} for batch, side in (stage.smallest, stage.usual, stage.largest))
    return network_folder(config, graph, origin, options.platform, (smallest, usual, largest))

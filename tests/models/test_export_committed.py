"""The model repository of the checkout: what an export writes today, without weights."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from face_server.domain import face_pipeline, video_pipeline
from face_server.domain.network import FOREIGN_NAMES, served_name
from face_server.domain.ports import AnalysisOptions
from face_server.models.catalog import CATALOG, READY_DEFAULTS
from face_server.models.export.options import ExportOptions, Pack, Platform
from face_server.models.export.repository import export
from face_server.models.weights import WeightsStore

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
WEIGHTS = re.compile(r".*\.(onnx|plan|cache)")

PACKS: dict[str, tuple[int, dict[str, list[int]], dict[str, list[int]]]] = {
    "ensemble_scrfd": (
        8,
        {"images": [640, 640, 3]},
        {
            f"{kind}_{stride}": [rows, n]
            for kind, n in (("score", 1), ("bbox", 4), ("kps", 10))
            for stride, rows in ((8, 12800), (16, 3200), (32, 800))
        },
    ),
    "face_recog": (8, {"input": [3, 112, 112]}, {"features": [128], "norms": [1]}),
    "pnet": (8, {"input_1": [-1, -1, 3]}, {"conv4-2": [-1, -1, 4], "conv4-1": [-1, -1, 2]}),
    "rnet": (4096, {"input_1": [24, 24, 3]}, {"conv5-2": [4], "conv5-1": [2]}),
    "onet": (256, {"input_1": [48, 48, 3]}, {"conv6-3": [10], "conv6-2": [4], "conv6-1": [2]}),
    "facenet": (16, {"input_1": [160, 160, 3]}, {"Bottleneck_BatchNorm": [128]}),
    "centerface": (
        0,
        {"input.1": [-1, 3, 480, 640]},
        {"537": [-1, 1, 120, 160], "538": [-1, 2, 120, 160], "539": [-1, 2, 120, 160], "540": [-1, 10, 120, 160]},
    ),
}
"""What clients of other systems count on: the largest batch, inputs and outputs, the latter in their order."""


def read(model: str) -> Any:
    """A committed configuration, as Triton reads it."""
    return text_format.Parse((REPOSITORY / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def committed(folder: Path) -> dict[str, bytes]:
    """The files of a model but its weights."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not WEIGHTS.fullmatch(name)}


def require_current(store: WeightsStore, target: Path, options: ExportOptions) -> None:
    """Compare every model that ``options`` export with the committed one."""
    for model in export(store, target, options):
        stale = f"model_repository/{model.name} is stale: face-server models export --to onnxruntime --pack all model_repository"
        assert committed(REPOSITORY / model.name) == committed(target / model.name), stale


def test_the_defaults_are_what_an_export_writes(weights: WeightsStore, tmp_path: Path) -> None:
    """Byte by byte, networks and pipelines."""
    require_current(weights, tmp_path, ExportOptions(Platform.ONNXRUNTIME, models=READY_DEFAULTS))


def test_everything_is_what_an_export_writes(all_weights: WeightsStore, mtcnn_weights: WeightsStore, tmp_path: Path) -> None:
    """Byte by byte, with the networks for tests and all packs; and nothing else is there."""
    options = ExportOptions(Platform.ONNXRUNTIME, packs=frozenset(Pack))
    require_current(all_weights, tmp_path, options)
    assert {path.name for path in REPOSITORY.iterdir() if path.is_dir()} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", list(CATALOG))
def test_networks_are_those_of_the_catalogue(name: str) -> None:
    """Known without weights: name, digest, licence, pixels as bytes, and a name that no other system has for something else."""
    entry = CATALOG[name]
    config = read(served_name(name))
    assert config.name == served_name(name)
    assert config.name not in FOREIGN_NAMES
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert (parameters["weights_sha256"], parameters["licence"]) == (entry.sha256, entry.licence)
    (taken,) = config.input
    assert (taken.data_type, taken.dims[-1]) == (model_config_pb2.TYPE_UINT8, 3)
    assert config.max_batch_size >= 1
    assert entry.sha256 in (REPOSITORY / config.name / "weights.txt").read_text()


@pytest.mark.parametrize("name", sorted(FOREIGN_NAMES))
def test_packs_keep_their_word(name: str) -> None:
    """Names, order, sizes and batches by which clients of other systems ask."""
    max_batch, inputs, outputs = PACKS[name]
    config = read(name)
    assert config.max_batch_size == max_batch
    assert {one.name: list(one.dims) for one in config.input} == inputs
    assert [(one.name, list(one.dims)) for one in config.output] == list(outputs.items())
    assert {one.data_type for one in config.output} == {model_config_pb2.TYPE_FP32}
    wanted = model_config_pb2.TYPE_UINT8 if name == "ensemble_scrfd" else model_config_pb2.TYPE_FP32
    assert {one.data_type for one in config.input} == {wanted}


def test_labels_are_there() -> None:
    """CenterFace has the label file that its configuration names."""
    names = {output.label_filename for output in read("centerface").output if output.label_filename}
    assert [(REPOSITORY / "centerface" / name).read_text() for name in names] == ["face\n"]


def test_pipelines_take_what_clients_send() -> None:
    """The questions of this side fit the inputs of that side."""
    for wire, question in ((face_pipeline, face_pipeline.Question(AnalysisOptions())), (video_pipeline, video_pipeline.VideoQuestion())):
        (options,) = [one for one in read(wire.NAME).input if one.name == "options"]
        assert (options.data_type, list(options.dims)) == (model_config_pb2.TYPE_STRING, list(question.to_tensor().shape))


def test_no_weights_are_committed() -> None:
    """Whatever lies there after an export, version control knows configurations only."""
    listed = subprocess.run(["git", "ls-files", "-z", "model_repository"], cwd=REPOSITORY.parent, capture_output=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("this is no checkout of version control")
    names = listed.stdout.decode().split("\0")
    assert not [name for name in names if WEIGHTS.fullmatch(name)]
    assert sum((REPOSITORY.parent / name).stat().st_size for name in names if name) < 200_000

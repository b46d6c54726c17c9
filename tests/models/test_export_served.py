"""Exported repositories on a real tritonserver, answers compared with ONNX Runtime in this process."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from benchmarks.triton_server import TritonServer, missing
from face_server.domain.image import Pixels
from face_server.domain.network import served_name
from face_server.domain.ports import AnalysisOptions
from face_server.models.catalog import CATALOG
from face_server.models.export.options import ExportOptions, Pack, Platform
from face_server.models.export.repository import export
from face_server.models.weights import WeightsStore

GATHERED = "gathered"
SIZE = (640, 384)

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def repository(all_weights: WeightsStore, mtcnn_weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything there is to export, for the Python backend; and SFace once more, with requests gathered."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("exported") / "repository"
    options = ExportOptions(Platform.PYTHON, embedder="arcface_mobilefacenet", packs=frozenset(Pack), instances=1, frame_size=SIZE)
    export(all_weights, folder, options)
    shutil.copytree(folder / "sface", folder / GATHERED)
    config = (folder / "sface/config.pbtxt").read_text().replace('name: "sface"', f'name: "{GATHERED}"')
    (folder / GATHERED / "config.pbtxt").write_text(f"{config}dynamic_batching {{ max_queue_delay_microseconds: 200000 }}\n")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    """A server that has loaded all of it but FaceNet, whose weights nobody may hand out."""
    with TritonServer(repository, sorted({path.name for path in repository.iterdir()} - {"facenet"})) as running:
        yield running


@pytest.fixture
def ask(server: TritonServer) -> Iterator[Ask]:
    """Asks a model and returns all of its outputs."""
    with InferenceServerClient(server.url) as client:

        def call(model: str, **inputs: Any) -> dict[str, Any]:
            tensors = []
            for name, value in inputs.items():
                tensors.append(InferInput(name.replace("__", "."), list(value.shape), np_to_triton_dtype(value.dtype)))
                tensors[-1].set_data_from_numpy(value)
            result = client.infer(model, tensors)
            return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

        yield call


@pytest.fixture
def frame(six_faces: Pixels) -> Pixels:
    """Six people in a frame of the size that the ensemble takes."""
    return np.ascontiguousarray(cv2.resize(six_faces, SIZE))


def expected(graph: Path, **inputs: Any) -> dict[str, Any]:
    """What ONNX Runtime says in this process."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name.replace("__", "."): value for name, value in inputs.items()}), strict=True))


def require_equal(answer: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    """Two versions of ONNX Runtime may add in another order: a ten-thousandth of the largest value."""
    assert answer.keys() == wanted.keys(), what
    for name, tensor in wanted.items():
        assert answer[name].shape == tensor.shape, (what, name)
        np.testing.assert_allclose(answer[name], tensor, atol=1e-4 * max(1, np.abs(tensor).max()), err_msg=f"{what} {name}")


def executions(server: TritonServer, model: str) -> tuple[int, int]:
    """How many pictures a model was given and in how many batches, by the server's own count."""
    found = dict(
        re.findall(rf'^nv_inference_(count|exec_count){{model="{re.escape(model)}",version="1"}} (\d+)', server.metrics(), re.MULTILINE)
    )
    return int(found["count"]), int(found["exec_count"])


def test_everything_loads(server: TritonServer) -> None:
    """Every network of the catalogue, the pipelines, the ensembles and the packs are ready; FaceNet waits for its weights."""
    states = server.index()
    assert {name for name, state in states.items() if state != "READY"} == {"facenet"}
    assert {served_name(name) for name in CATALOG} < states.keys()
    assert {"face_pipeline", "video_pipeline", "face_ensemble", "ensemble_scrfd", "face_recog", "pnet", "centerface"} < states.keys()


@pytest.mark.parametrize("name", list(CATALOG))
def test_networks_answer_as_in_process(all_weights: WeightsStore, ask: Ask, six_faces: Pixels, name: str) -> None:
    """Two pictures at once, real ones."""
    network = all_weights.network(name)
    side = network.inputs[0].shape[1] or 320
    pictures = np.stack([cv2.resize(six_faces[:, start : start + 886], (side, side)) for start in (0, 394)])
    inputs = {network.inputs[0].name: pictures}
    require_equal(ask(served_name(name), **inputs), expected(network.path, **inputs), name)


def test_packs_answer_as_in_process(ask: Ask, repository: Path, frame: Pixels, six_faces: Pixels) -> None:
    """With the names, types and sizes that clients of those systems expect."""
    faces = np.stack([cv2.resize(six_faces[50:300, left : left + 250], (48, 48)) for left in range(0, 1000, 200)])
    floats = (faces[..., ::-1].astype(np.float32) - 127.5) / 127.5
    crops = np.stack([cv2.resize(face, (112, 112)) for face in faces]).astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    picture = cv2.resize(six_faces, (640, 480))[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    for model, inputs in (
        ("face_recog", {"input": np.ascontiguousarray(crops)}),
        ("pnet", {"input_1": floats}),
        ("rnet", {"input_1": np.ascontiguousarray(floats[:, ::2, ::2])}),
        ("onet", {"input_1": floats}),
        ("centerface", {"input__1": np.ascontiguousarray(picture)}),
    ):
        require_equal(ask(model, **inputs), expected(repository / model / "1/model.onnx", **inputs), model)
    square = np.zeros((1, 640, 640, 3), np.uint8)
    square[0, : SIZE[1]] = frame
    answer = ask("ensemble_scrfd", images=square)
    for kind, values in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride, rows in ((8, 12800), (16, 3200), (32, 800)):
            assert answer[f"{kind}_{stride}"].shape == (1, rows, values)
            assert answer[f"{kind}_{stride}"].dtype == np.float32
    assert answer["score_8"].max() > 0.5
    require_equal(answer, expected(repository / "scrfd_500m/1/model.onnx", images=square), "ensemble_scrfd")


def test_the_ensemble_finds_what_the_pipeline_finds(ask: Ask, frame: Pixels) -> None:
    """The same boxes, landmarks and embeddings without scripting; a frame without faces gives none."""
    options = AnalysisOptions(max_size_px=SIZE[0], min_score=CATALOG["yunet"].detection_score)
    question = np.array(
        [json.dumps({"analysis": {"max_size_px": options.max_size_px, "min_score": options.min_score}}).encode()], np.object_
    )
    whole, parts = ask("face_pipeline", frame=frame, options=question), ask("face_ensemble", frame=frame[None])
    assert parts["count"].tolist() == [6]
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-4, err_msg=name)
    features = parts["features"] / np.linalg.norm(parts["features"], axis=1, keepdims=True)
    np.testing.assert_allclose(features, whole["embeddings"], atol=1e-5)
    empty = ask("face_ensemble", frame=np.zeros_like(frame)[None])
    assert (empty["count"].tolist(), empty["features"].shape) == ([0], (1, 128))


def test_gathered_requests_get_their_own_answers(server: TritonServer, ask: Ask, repository: Path, six_faces: Pixels) -> None:
    """Requests of different sizes that wait together run as one batch, and each caller gets the rows of its pictures."""
    pictures = np.stack([cv2.resize(six_faces[50:300, left : left + 250], (112, 112)) for left in range(0, 1000, 100)])
    parts = [pictures[start:end] for start, end in ((0, 1), (1, 4), (4, 5), (5, 9), (9, 10))]
    before = executions(server, GATHERED)
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(lambda part: ask(GATHERED, crops=np.ascontiguousarray(part)), parts))
    after = executions(server, GATHERED)
    assert after[0] - before[0] == 10
    assert after[1] - before[1] < len(parts)
    together = {"features": np.concatenate([answer["features"] for answer in answers])}
    require_equal(together, expected(repository / GATHERED / "1/model.onnx", crops=pictures), GATHERED)


def test_refusals_name_what_is_wrong(ask: Ask, server: TritonServer) -> None:
    """Tensors that break the contract, and pictures that a network cannot run on, are the caller's fault; the model goes on."""
    for model, inputs, sentence in (
        ("sface", {"crops": np.zeros((1, 96, 96, 3), np.uint8)}, "expected"),
        ("sface", {"crops": np.zeros((33, 112, 112, 3), np.uint8)}, "batch-size must be <= 32"),
        ("scrfd_500m", {"images": np.zeros((1, 0, 32, 3), np.uint8)}, "no empty dimension"),
        ("retinaface_mnet025", {"images": np.zeros((1, 33, 45, 3), np.uint8)}, "cannot run on|failed to run"),
    ):
        with pytest.raises(InferenceServerException, match=sentence) as caught:
            ask(model, **inputs)
        assert "onnxruntime::" not in caught.value.message()
        assert ("INVALID_ARGUMENT" in caught.value.status()) == ("failed to run" not in caught.value.message())
    assert len(ask("sface", crops=np.zeros((2, 112, 112, 3), np.uint8))["features"]) == 2


def test_models_come_and_go(server: TritonServer, ask: Ask, repository: Path) -> None:
    """A model is unloaded and loaded again by the repository API; one with damaged weights is refused with the reason."""
    crops = np.zeros((1, 112, 112, 3), np.uint8)
    server.unload("sface")
    for _ in range(200):
        # What came before may still be answered.
        if server.index()["sface"] == "UNAVAILABLE":
            break
        time.sleep(0.02)
    with pytest.raises(InferenceServerException, match="sface"):
        ask("sface", crops=crops)
    server.load("sface")
    assert ask("sface", crops=crops)["features"].shape == (1, 128)
    shutil.copytree(repository / "sface", repository / "damaged")
    config = repository / "damaged/config.pbtxt"
    config.write_text(config.read_text().replace('name: "sface"', 'name: "damaged"'))
    (repository / "damaged/1/model.onnx").write_bytes(b"damaged")
    try:
        with pytest.raises(OSError, match=r"onnxruntime cannot load network 'damaged' from model\.onnx"):
            server.load("damaged")
    finally:
        shutil.rmtree(repository / "damaged")


def test_metrics_count_what_was_asked(server: TritonServer, ask: Ask) -> None:
    """What is scraped tells pictures and failures a model apart."""
    before = executions(server, "arcface_mobilefacenet")
    ask("arcface_mobilefacenet", crops=np.zeros((3, 112, 112, 3), np.uint8))
    after = executions(server, "arcface_mobilefacenet")
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)
    assert 'nv_inference_request_failure{model="sface"' in server.metrics()

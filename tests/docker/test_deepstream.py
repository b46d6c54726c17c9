"""docker/deepstream: the parser's arithmetic, and whether its settings fit the model."""

from __future__ import annotations

import configparser
import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from face_server.domain.image import Pixels
from face_server.models.centerface import CenterFace
from face_server.models.export import graphs
from face_server.models.weights import WeightsStore
from tests.conftest import REPOSITORY
from tests.docker.dockerfile import DOCKER

FOLDER = DOCKER / "deepstream"
MODEL = REPOSITORY / "model_repository" / "centerface"
NAMES = {"537": "heatmap", "538": "scale", "539": "offset", "540": "landmarks"}
HEIGHT, WIDTH = 480, 640


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The parser, compiled without a warning against a stand-in for DeepStream's header."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    doubles = Path(__file__).with_name("deepstream")
    library = tmp_path_factory.mktemp("parser") / "parser.so"
    line = [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{doubles}", "-o", library]
    ended = subprocess.run([*line, FOLDER / "centerface_parser.cpp", doubles / "harness.cpp"], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def outputs(weights: WeightsStore, shared: Path) -> dict[str, np.ndarray]:
    """What the model `centerface` answers for a real picture of many people, at the size it takes."""
    graph = graphs.centerface(published(weights), "centerface")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    canvas = cv2.cvtColor(picture(shared), cv2.COLOR_BGR2RGB).astype(np.float32).transpose(2, 0, 1)[None]
    return dict(zip(NAMES, session.run(list(NAMES), {"input.1": canvas}), strict=True))


def published(weights: WeightsStore) -> bytes:
    """The weights as they were published."""
    return (weights.folder / "centerface" / "weights.onnx").read_bytes()


def picture(shared: Path) -> Pixels:
    """A parade, 640×480."""
    pixels = cv2.imread(str(shared / "data" / "wider" / "images" / "0--Parade" / "0_Parade_Parade_0_873.jpg"))
    assert pixels is not None
    return np.asarray(cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def parse(parser: ctypes.CDLL, tensors: Mapping[str, np.ndarray], threshold: float) -> np.ndarray | None:
    """Rows of left, top, width, height, score; None if the parser refuses."""
    arrays = [np.ascontiguousarray(tensor, np.float32) for tensor in tensors.values()]
    count = len(arrays)
    names = (ctypes.c_char_p * count)(*[name.encode() for name in tensors])
    buffers = (ctypes.c_void_p * count)(*[array.ctypes.data for array in arrays])
    ranks = (ctypes.c_uint * count)(*[array.ndim for array in arrays])
    dims = (ctypes.c_uint * (4 * count))(*[side for array in arrays for side in (*array.shape, *(0,) * (4 - array.ndim))])
    rows = np.zeros((5000, 5), np.float32)
    found = parser.parse(
        count, names, buffers, ranks, dims, WIDTH, HEIGHT, ctypes.c_float(threshold), len(rows), rows.ctypes.data_as(ctypes.c_void_p)
    )
    return None if found < 0 else rows[:found]


@pytest.mark.parametrize("threshold", [0.5, 0.05])
def test_boxes(parser: ctypes.CDLL, outputs: dict[str, np.ndarray], threshold: float) -> None:
    """The parser finds what face_server finds in the same tensors, cut to the picture."""
    (expected,) = CenterFace().decode({NAMES[name]: tensor for name, tensor in outputs.items()}, HEIGHT, WIDTH, threshold)
    boxes = np.clip(expected.boxes, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert visible.sum() >= 50
    found = parse(parser, outputs, threshold)
    assert found is not None
    np.testing.assert_allclose(np.concatenate((found[:, :2], found[:, :2] + found[:, 2:4]), axis=1), boxes[visible], atol=1e-3)
    np.testing.assert_array_equal(found[:, 4], expected.scores[visible])


def test_without_batch(parser: ctypes.CDLL, outputs: dict[str, np.ndarray]) -> None:
    """Tensors without the batch of one in front mean the same."""
    whole, bare = parse(parser, outputs, 0.3), parse(parser, {name: tensor[0] for name, tensor in outputs.items()}, 0.3)
    assert whole is not None
    assert bare is not None
    np.testing.assert_array_equal(whole, bare)


@pytest.mark.parametrize("broken", ["missing", "channels", "size"])
def test_refusals(parser: ctypes.CDLL, outputs: dict[str, np.ndarray], broken: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A tensor that is missing or of another shape is refused with a sentence, not read."""
    tensors = dict(outputs)
    if broken == "missing":
        del tensors["538"]
    else:
        tensors["538"] = tensors["538"][:, :1] if broken == "channels" else tensors["538"][:, :, :-1]
    assert parse(parser, tensors, 0.5) is None
    assert "are expected" in capfd.readouterr().err


def test_settings_fit_the_model() -> None:
    """Model, tensors, sizes and label are those of the repository; the function is the parser's; files that are named exist."""
    settings, model = (FOLDER / "centerface.txt").read_text(), (MODEL / "config.pbtxt").read_text()

    def value(name: str) -> str:
        found = re.search(rf'\b{name}: "?([^"\s]+)"?', settings)
        assert found is not None, name
        return found.group(1)

    assert f'name: "{value("model_name")}"' in model
    assert f"max_batch_size: {value('max_batch_size')}" in model
    assert 'inputs [ { name: "input.1" dims: [1, 3, 480, 640] } ]' in settings
    assert 'input { name: "input.1" data_type: TYPE_FP32 dims: [-1, 3, 480, 640] }' in model
    wanted = re.findall(r'{ name: "(\d+)" }', settings)
    assert wanted == ["537", "538", "539"]
    assert all(f'output {{ name: "{name}" ' in model for name in wanted)
    assert f'extern "C" bool {value("custom_parse_bbox_func")}(' in (FOLDER / "centerface_parser.cpp").read_text()
    assert (FOLDER / value("labelfile_path")).read_text() == (MODEL / "labels.txt").read_text()
    assert value("iou_threshold") == str(CenterFace.max_iou)
    assert value("confidence_threshold") == str(CenterFace.min_score)


def test_application() -> None:
    """The application reads RTSP, asks nvinferserver with the settings beside it and serves RTSP."""
    application = configparser.ConfigParser()
    application.read(FOLDER / "app.txt")
    assert application["source0"]["type"] == "4"
    assert application["primary-gie"]["plugin-type"] == "1"
    assert (FOLDER / application["primary-gie"]["config-file"]).is_file()
    assert (application["sink0"]["type"], application["sink0"]["rtsp-port"]) == ("4", "8554")

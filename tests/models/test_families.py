"""Decoding what networks say, against the published graphs and slow, plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from face_server.domain.image import Image, Pixels
from face_server.models.catalog import CATALOG
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.families import detector_family
from face_server.models.weights import WeightsStore

Face = tuple[list[float], float, list[list[float]]]
"""Box, score and landmarks."""

SIDE = 640
DETECTORS = [name for name, entry in CATALOG.items() if entry.task == "detector"]


def published_outputs(path: Path, blob: np.ndarray) -> list[np.ndarray]:
    """The outputs of a published file; static dimensions are declared free, nothing else changes."""
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [*(value for value in model.graph.input if value.name not in weights), *model.graph.output]:
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            if number != 1:
                dim.dim_param = f"{value.name}_{number}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: blob})


def plain_centerface(canvas: Pixels, path: Path, min_score: float) -> list[Face]:
    """CenterFace as its paper describes it, one cell at a time."""
    blob = cv2.dnn.blobFromImage(canvas, 1.0, (SIDE, SIDE), (0, 0, 0), swapRB=True)
    heatmap, scale, offset, landmarks = (output[0] for output in published_outputs(path, blob))
    faces: list[Face] = []
    for row, column in zip(*np.where(heatmap[0] >= min_score), strict=True):
        height, width = (4 * math.exp(scale[k, row, column]) for k in (0, 1))
        y = 4 * (row + offset[0, row, column] + 0.5)
        x = 4 * (column + offset[1, row, column] + 0.5)
        left, top = x - width / 2, y - height / 2
        values = landmarks[:, row, column]
        points = [[left + width * values[2 * k + 1], top + height * values[2 * k]] for k in range(5)]
        faces.append(([left, top, x + width / 2, y + height / 2], float(heatmap[0, row, column]), points))
    return faces


def plain_scrfd(canvas: Pixels, path: Path, min_score: float) -> list[Face]:
    """SCRFD: distances from anchor centres, two anchors a cell."""
    blob = cv2.dnn.blobFromImage(canvas, 1 / 128, (SIDE, SIDE), (127.5, 127.5, 127.5), swapRB=True)
    outputs = published_outputs(path, blob)
    faces: list[Face] = []
    for level, stride in enumerate((8, 16, 32)):
        scores, sides, points = (outputs[level + 3 * head] for head in range(3))
        for anchor in np.where(scores[:, 0] >= min_score)[0]:
            row, column = divmod(int(anchor) // 2, SIDE // stride)
            x, y = column * stride, row * stride
            left, top, right, bottom = (float(side) * stride for side in sides[anchor])
            landmarks = [[x + points[anchor][2 * k] * stride, y + points[anchor][2 * k + 1] * stride] for k in range(5)]
            faces.append(([x - left, y - top, x + right, y + bottom], float(scores[anchor, 0]), landmarks))
    return faces


def plain_retinaface(canvas: Pixels, path: Path, min_score: float) -> list[Face]:
    """RetinaFace: offsets from priors, SSD's variances."""
    blob = cv2.dnn.blobFromImage(canvas, 1.0, (SIDE, SIDE), (104, 117, 123))
    boxes, scores, points = (output[0] for output in published_outputs(path, blob))
    priors = [
        ((column + 0.5) * stride, (row + 0.5) * stride, side)
        for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
        for row in range(SIDE // stride)
        for column in range(SIDE // stride)
        for side in sides
    ]
    faces: list[Face] = []
    for number in np.where(scores[:, 1] >= min_score)[0]:
        x, y, side = priors[number]
        x_offset, y_offset, log_width, log_height = boxes[number]
        x_centre, y_centre = x + 0.1 * side * x_offset, y + 0.1 * side * y_offset
        width, height = side * math.exp(0.2 * log_width), side * math.exp(0.2 * log_height)
        box = [x_centre - width / 2, y_centre - height / 2, x_centre + width / 2, y_centre + height / 2]
        landmarks = [[x + 0.1 * side * points[number][2 * k], y + 0.1 * side * points[number][2 * k + 1]] for k in range(5)]
        faces.append((box, float(scores[number, 1]), landmarks))
    return faces


PLAIN: dict[str, Callable[[Pixels, Path, float], list[Face]]] = {
    "centerface": plain_centerface,
    "scrfd_500m": plain_scrfd,
    "scrfd_2.5g": plain_scrfd,
    "retinaface_mnet025": plain_retinaface,
}


@pytest.mark.parametrize("name", PLAIN)
def test_decoding_agrees_with_plain_arithmetic_on_the_published_graph(all_weights: WeightsStore, six_faces: Pixels, name: str) -> None:
    """Every anchor above the score gives the same box, score and landmarks, for each picture of a batch."""
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    canvas[:443] = cv2.resize(six_faces, (SIDE, 443), interpolation=cv2.INTER_AREA)
    network = all_weights.network(name)
    family = detector_family(all_weights.entry(name).family)
    session = onnxruntime.InferenceSession(network.path, providers=["CPUExecutionProvider"])
    batch = np.stack((np.zeros_like(canvas), canvas))
    outputs = dict(zip(family.recipe.outputs, session.run(list(family.recipe.outputs), {"images": batch}), strict=True))
    nothing, raw = family.decode(outputs, SIDE, SIDE, 0.45)
    expected = sorted(PLAIN[name](canvas, network.path.with_name("weights.onnx"), 0.45), key=lambda face: -face[1])
    order = np.argsort(-raw.scores, kind="stable")
    assert len(nothing.scores) == 0
    assert len(expected) >= 6
    np.testing.assert_allclose(raw.scores[order], [face[1] for face in expected], atol=1e-4)
    np.testing.assert_allclose(raw.boxes[order], [face[0] for face in expected], atol=0.05)
    np.testing.assert_allclose(raw.landmarks[order], [face[2] for face in expected], atol=0.05)


async def test_yunet_agrees_with_opencv(
    make_detector: Callable[..., NetworkDetector], all_weights: WeightsStore, six_faces: Pixels
) -> None:
    """OpenCV's own detector on the published file finds the same faces, boxes within a pixel."""
    path = all_weights.network("yunet").path.with_name("weights.onnx")
    size = (six_faces.shape[1] // 2, six_faces.shape[0] // 2)
    picture = np.asarray(cv2.resize(six_faces, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, rows = cv2.FaceDetectorYN.create(str(path), "", size, 0.6, 0.3, 5000).detect(picture)
    found = (await make_detector("yunet").detect([Image.from_pixels(picture)], min_score=0.6, max_size_px=640))[0]
    boxes = [(face.box.x1, face.box.y1, face.box.width, face.box.height) for face in found]
    np.testing.assert_allclose(boxes, rows[:, :4], atol=1.0)
    np.testing.assert_allclose([face.score for face in found], rows[:, 14], atol=1e-3)
    # Landmarks may be agreed upon by several anchors here; OpenCV takes the best one's.
    np.testing.assert_allclose([face.landmarks.ravel() for face in found], rows[:, 4:14], atol=4.0)


@pytest.mark.parametrize("name", DETECTORS)
async def test_landmarks_come_image_left_first(make_detector: Callable[..., NetworkDetector], six_faces_image: Image, name: str) -> None:
    """For upright faces: left eye left of right eye, eyes above nose above mouth, left corner left of right."""
    for face in (await make_detector(name).detect([six_faces_image], min_score=0.6, max_size_px=640))[0]:
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert all(face.box.x1 <= x <= face.box.x2 and face.box.y1 <= y <= face.box.y2 for x, y in face.landmarks)


async def test_all_families_see_the_same_faces(make_detector: Callable[..., NetworkDetector], six_faces_image: Image) -> None:
    """Five networks agree on six faces, their landmarks within a tenth of the face."""
    everyone = []
    for name in DETECTORS:
        faces = (await make_detector(name).detect([six_faces_image], min_score=0.6, max_size_px=640))[0]
        everyone.append(sorted(faces, key=lambda face: face.box.x1))
    assert [len(faces) for faces in everyone] == [6] * len(DETECTORS)
    for same in zip(*everyone, strict=True):
        middle = np.median([face.landmarks for face in same], axis=0)
        for face in same:
            assert np.abs(face.landmarks - middle).max() < 0.1 * face.box.height


async def test_a_batch_of_square_canvases_finds_what_single_pictures_do(
    make_detector: Callable[..., NetworkDetector], shared: Path, six_faces_image: Image
) -> None:
    """For GPUs: pictures of different shapes share a call, and the answers do not change beyond rounding."""
    other = Image.from_pixels(np.asarray(cv2.imread(str(shared / "data/photos/scenes/obama_and_biden.jpg")), np.uint8))
    pictures = [six_faces_image, other, Image.from_pixels(np.zeros((40, 30, 3), np.uint8))]
    for name in ("yunet", "centerface"):
        single = await make_detector(name).detect(pictures, min_score=0.6, max_size_px=640)
        batched = await make_detector(name, DetectorOptions(batch=2)).detect(pictures, min_score=0.6, max_size_px=640)
        assert [len(faces) for faces in batched] == [len(faces) for faces in single] == [6, 3, 0]
        for one, two in zip(single[0], batched[0], strict=True):
            assert abs(one.score - two.score) < 0.02
            assert np.abs(one.landmarks - two.landmarks).max() < 2.0

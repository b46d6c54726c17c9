"""Calibrating a detector for eight bits, as deploy_trt.sh asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from face_server.domain.image import Image
from face_server.models.detector import detect_with
from face_server.models.export.networks import convert_first
from face_server.video.images import ImageLimits, decode_image

LIMITS = ImageLimits(20_000_000, 50_000_000)


@pytest.fixture
def repository(tmp_path, weights):
    """What an export to TensorRT leaves of yunet."""
    place = tmp_path / "repository" / "yunet"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(convert_first(weights.network("yunet").path.read_bytes()))
    return place.parent


def calibrate(repository, pictures, weights):
    """The command, as the script runs it."""
    environment = {**os.environ, "FACE_SERVER_DATA": str(weights.folder.parent)}
    line = [sys.executable, "-m", "face_server.commands.calibration", "--detector=yunet", str(repository), str(pictures)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def faces_of(graph, pictures, weights):
    """How many faces the graph finds in each picture, and the boxes of the first."""
    entry = weights.entry("yunet")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options)
    names = [output.name for output in session.get_outputs()]
    detect = detect_with(entry, lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True)), second_pass=False)
    images: list[Image] = [decode_image(path.read_bytes(), LIMITS) for path in pictures]
    return [detect(image, entry.detection_score, 640) for image in images]


def test_a_calibrated_detector_finds_the_same_faces(repository, weights, shared):
    """All faces of pictures that it has not seen, within a few pixels; every convolution takes eight bits, with zero as zero."""
    people = shared / "data/photos/people"
    done = calibrate(repository, people, weights)
    assert done.returncode == 0, done.stderr
    graph = repository / "yunet" / "model.int8.onnx"
    model = onnx.load(graph)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    assert {made_by[node.input[0]] for node in model.graph.node if node.op_type == "Conv"} == {"DequantizeLinear"}
    zeros = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name.endswith("zero_point")]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    scenes = sorted((shared / "data/photos/scenes").glob("*.jpg"))[:4]
    exact = faces_of(repository / "yunet" / "model.onnx", scenes, weights)
    eight = faces_of(graph, scenes, weights)
    assert [len(faces) for faces in eight] == [len(faces) for faces in exact]
    for one, other in zip(exact, eight, strict=True):
        for face in one:
            corners = np.array([face.box.x1, face.box.y1, face.box.x2, face.box.y2])
            others = [np.array([found.box.x1, found.box.y1, found.box.x2, found.box.y2]) for found in other]
            assert min(float(np.abs(corners - found).max()) for found in others) < 0.1 * (face.box.x2 - face.box.x1) + 2
    before = graph.stat().st_mtime_ns
    again = calibrate(repository, people, weights)
    assert "already" in again.stdout
    assert graph.stat().st_mtime_ns == before


def test_without_a_network_or_pictures_it_says_so(tmp_path, repository, weights):
    """One sentence, and code 2."""
    (tmp_path / "empty").mkdir()
    for where, pictures, sentence in (
        (tmp_path / "empty", tmp_path, "there is no "),
        (repository, tmp_path / "empty", "holds no pictures"),
    ):
        ended = calibrate(where, pictures, weights)
        assert ended.returncode == 2
        assert sentence in " ".join(ended.stderr.split())

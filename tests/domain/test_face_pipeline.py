"""What is asked of the remote pipeline and what it answers survive the way there and back."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from face_server.domain import face_pipeline
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.face import Box, Detection, Face
from face_server.domain.face_pipeline import Question
from face_server.domain.ports import Analysis, AnalysisOptions
from face_server.domain.quality import Pose, Quality
from face_server.errors import FaceRejected, InputTooLarge, InvalidImage, InvalidInput, ModelMismatch

MODEL = ModelId("net", "0123456789ab", 1, 4)
RNG = np.random.default_rng(4)


def face(*, described: bool) -> Face:
    """A face with everything, or its detection alone."""
    landmarks = RNG.normal(100, 20, (5, 2)).astype(np.float32)
    detection = Detection(Box(1.5, -2.0, 30.25, 40.0), 0.75, landmarks)
    if not described:
        return Face(detection)
    vector = RNG.normal(size=4).astype(np.float32)
    quality = Quality(28.75, 0.5, 0.25, Pose(-3.0, 4.5, 1.0), 0.75, 0.125)
    crop = RNG.integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return Face(detection, quality, Embedding(vector / np.linalg.norm(vector), 9.5, MODEL), crop)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("described", [True, False])
def test_faces_come_back_as_they_were(count: int, described: bool) -> None:
    """Boxes, scores, landmarks, quality, embeddings and crops, where they were asked for; the picture's size; the time of decoding."""
    sent = Analysis(1920, 1080, tuple(face(described=described) for _ in range(count)), 2.5)
    tensors = face_pipeline.answer(sent, MODEL)
    back = face_pipeline.read_answer(tensors, MODEL)
    assert (back.width, back.height, back.decode_ms) == (1920, 1080, 2.5)
    assert len(back.faces) == count
    for one, other in zip(sent.faces, back.faces, strict=True):
        assert asdict(one.detection.box) == asdict(other.detection.box)
        assert one.detection.score == other.detection.score
        np.testing.assert_array_equal(one.detection.landmarks, other.detection.landmarks)
        assert one.quality == other.quality
        if one.embedding is None or one.crop is None:
            assert (other.embedding, other.crop) == (None, None)
            continue
        assert other.embedding is not None
        np.testing.assert_array_equal(one.embedding.vector, other.embedding.vector)
        assert (one.embedding.norm, one.embedding.model) == (other.embedding.norm, other.embedding.model)
        np.testing.assert_array_equal(one.crop, other.crop)


@pytest.mark.parametrize("count", [0, 2])
def test_tensors_are_as_declared(count: int) -> None:
    """The answer has the names, dtypes and shapes that the model's configuration states."""
    tensors = face_pipeline.answer(Analysis(64, 48, tuple(face(described=True) for _ in range(count)), 0.0), MODEL)
    declared = face_pipeline.outputs(MODEL.dimension)
    assert list(tensors) == [spec.name for spec in declared]
    for spec in declared:
        tensor = tensors[spec.name]
        assert str(tensor.dtype) == spec.dtype
        assert tensor.shape == tuple(count if size is None else size for size in spec.shape)


def test_another_models_answer_is_refused() -> None:
    """Embeddings of other weights are never taken for ours."""
    tensors = face_pipeline.answer(Analysis(64, 48, (face(described=True),), 0.0), MODEL)
    with pytest.raises(ModelMismatch, match=r"net@0123456789ab/p1/4d.*net@ffff56789abc/p1/4d"):
        face_pipeline.read_answer(tensors, ModelId("net", "ffff56789abc", 1, 4))


def test_a_question_comes_back_as_it_was() -> None:
    """With everything set, and without a tensor the defaults."""
    asked = Question(AnalysisOptions(0.25, 320, 12, 3, embed=False, mirror=True, quality=False, crops=True), 1000, 2000, 640, 480)
    assert Question.from_tensor(asked.to_tensor()) == asked
    assert Question.from_tensor(None) == Question()


@pytest.mark.parametrize("text", [b"", b"no JSON", b"[1]", b'{"analysis": 3}', b'{"speed": 9}', b'{"analysis": {"min_scor": 0.5}}'])
def test_no_question(text: bytes) -> None:
    """What is no question is refused by name."""
    with pytest.raises(InvalidInput, match="options must be the JSON") as refused:
        Question.from_tensor(np.array([text], np.object_))
    assert refused.value.field == "options"


def test_a_frame_larger_than_its_source() -> None:
    """A scaled frame keeps the size of its source; a source smaller than the frame cannot be."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    assert Question(source_width=128, source_height=96).image(pixels).source_scale == (2.0, 2.0)
    assert Question().image(pixels).source_scale == (1.0, 1.0)
    with pytest.raises(InvalidInput, match="cannot be smaller") as refused:
        Question(source_width=32, source_height=96).image(pixels)
    assert refused.value.field == "frame"


@pytest.mark.parametrize(
    "error",
    [
        InvalidImage("the picture is empty (0 bytes)"),
        InputTooLarge("too many pixels: 9×9", field="image"),
        InvalidInput("“quoted” and {braced}", code="odd", field="a.b"),
        FaceRejected("no face", reasons=("no_face",)),
    ],
)
def test_refusals_come_back_as_errors(error: InvalidInput) -> None:
    """With class, code, field and words, also behind words that a server puts before them."""
    for text in (face_pipeline.fault_text(error), f"in ensemble 'x', {face_pipeline.fault_text(error)}"):
        back = face_pipeline.read_fault(text)
        assert back is not None
        assert (back.code, back.field, back.message) == (error.code, error.field, error.message)
        assert type(back) is (InvalidInput if isinstance(error, FaceRejected) else type(error))


@pytest.mark.parametrize("text", ["", "model is not ready", "{", '{"error": 3}', "unexpected shape {1,2}"])
def test_other_refusals(text: str) -> None:
    """What the server says by itself is no error of the picture."""
    assert face_pipeline.read_fault(text) is None

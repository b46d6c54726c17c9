"""The ensemble without BLS: detector, alignment and embedder one after the other for frames of a fixed size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from face_server.domain.embedding import Embeddings
from face_server.domain.ports import AnalysisOptions
from face_server.pipeline.analysis import LocalAnalyzer

from .asking import Asker, Refused, faces_here

OUTPUTS = ("boxes", "scores", "landmarks", "count", "crops", "features")


@pytest.fixture
def frame(photos: Path) -> np.ndarray:
    """Six faces in 640×384."""
    return cv2.resize(cv2.imread(str(photos / "scenes/friends_six_faces.jpg")), (640, 384), interpolation=cv2.INTER_AREA)


async def test_the_ensemble_finds_what_this_process_finds(ask: Asker, here: LocalAnalyzer, frame: np.ndarray):
    """Boxes, scores, landmarks and embeddings of a frame that fills the detector's canvas equal those of the pipeline here."""
    expected = await faces_here(here, frame, AnalysisOptions(quality=False))

    found = await ask.raw({"frame": frame[None]}, OUTPUTS, model="fixed_frames")

    assert found["count"].tolist() == [len(expected)] == [6]
    embeddings = Embeddings.from_features(found["features"], ask.model)
    for index, (face, embedding) in enumerate(zip(expected, embeddings, strict=True)):
        box = face.detection.box
        assert np.abs(found["boxes"][index] - (box.x1, box.y1, box.x2, box.y2)).max() < 1
        assert abs(found["scores"][index] - face.detection.score) < 1e-3
        assert np.abs(found["landmarks"][index] - face.detection.landmarks).max() < 1
        assert embedding.similarity(face.embedding) > 0.999


async def test_nobody_is_one_row_that_counts_for_nothing(ask: Asker):
    """An ensemble cannot leave out its embedder: without a face there is a row of zeros, and the count says 0."""
    found = await ask.raw({"frame": np.full((1, 384, 640, 3), 80, np.uint8)}, OUTPUTS, model="fixed_frames")

    assert found["count"].tolist() == [0]
    assert [len(found[name]) for name in ("boxes", "scores", "landmarks", "crops", "features")] == [1] * 5
    assert not any(found[name].any() for name in ("boxes", "scores", "landmarks", "crops"))


async def test_no_more_faces_than_the_embedder_takes(ask: Asker, frame: np.ndarray):
    """Of more faces than ``max_faces`` the largest are kept; the order by score stays."""
    # 24 faces of about 25 px.
    tiles = np.tile(cv2.resize(frame, (320, 192), interpolation=cv2.INTER_AREA), (2, 2, 1))

    found = await ask.raw({"frame": tiles[None]}, OUTPUTS, model="fixed_frames")

    assert found["count"].tolist() == [16]
    assert len(found["features"]) == 16
    assert (np.diff(found["scores"]) <= 0).all()


async def test_a_frame_of_another_size_is_refused(ask: Asker):
    """By the ensemble itself, in one sentence."""
    with pytest.raises(Refused) as caught:
        await ask.raw({"frame": np.zeros((1, 100, 100, 3), np.uint8)}, OUTPUTS, model="fixed_frames")

    assert caught.value.status == "StatusCode.INVALID_ARGUMENT"

"""From images to faces: what is chosen, what is computed, in which pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from face_server.api.services import Services
from face_server.domain.face import Box, Detection
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions
from face_server.pipeline.analysis import choose_faces


@pytest.fixture
def group(photos: Path) -> Image:
    """Six faces."""
    return Image.from_pixels(cv2.imread(str(photos / "scenes" / "friends_six_faces.jpg")))


async def test_faces_come_best_first_with_all_that_was_asked_for(services: Services, group: Image):
    """Every face carries its quality, crop and embedding; scores fall."""
    (faces,) = await services.analyzer.analyze([group], AnalysisOptions(crops=True))

    scores = [face.detection.score for face in faces]
    assert len(faces) == 6
    assert scores == sorted(scores, reverse=True)
    assert all(face.quality and face.embedding and face.crop.shape == (112, 112, 3) for face in faces)


async def test_nothing_is_computed_that_was_not_asked_for(services: Services, group: Image):
    """Without embed, quality and crops a face is its detection."""
    (faces,) = await services.analyzer.analyze([group], AnalysisOptions(embed=False, quality=False))

    assert all(face.embedding is None and face.quality is None and face.crop is None for face in faces)


async def test_results_are_in_pixels_of_the_source(services: Services, group: Image):
    """An image decoded at half its size reports boxes and landmarks of the whole size."""
    half = Image(cv2.resize(group.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), group.width, group.height)
    options = AnalysisOptions(embed=False, max_size_px=640)
    (whole_faces,), (half_faces,) = await services.analyzer.analyze([group], options), await services.analyzer.analyze([half], options)

    for one, other in zip(whole_faces, half_faces, strict=True):
        assert np.abs(one.detection.landmarks - other.detection.landmarks).max() < 3
        assert abs(one.quality.size_px - other.quality.size_px) < 4


async def test_a_mirrored_embedding_is_near_the_plain_one_but_not_equal(services: Services, group: Image):
    """Averaging with the mirror image moves an embedding a little."""
    (plain,) = await services.analyzer.analyze([group], AnalysisOptions(max_faces=1))
    (mirrored,) = await services.analyzer.analyze([group], AnalysisOptions(max_faces=1, mirror=True))

    assert 0.8 < plain[0].embedding.similarity(mirrored[0].embedding) < 0.99999


async def test_aligned_crops_embed_as_the_faces_they_came_from(services: Services, group: Image):
    """What ``crops`` returns, sent back as an aligned crop, gives the embedding of the face."""
    (faces,) = await services.analyzer.analyze([group], AnalysisOptions(crops=True))
    again = await services.analyzer.embed_crops([Image.from_pixels(face.crop) for face in faces])

    for face, copy in zip(faces, again, strict=True):
        assert face.embedding.similarity(copy.embedding) > 0.9999


def detection(x: float, side: float) -> Detection:
    """A square detection."""
    return Detection(Box(x, 0, x + side, side), 0.9, np.zeros((5, 2), np.float32))


def test_the_largest_faces_are_kept_in_the_given_order():
    """``max_faces`` drops the small ones and does not reorder the rest."""
    found = [detection(0, 20), detection(30, 50), detection(90, 10), detection(120, 40)]
    image = Image.from_pixels(np.zeros((200, 200, 3), np.uint8))

    assert choose_faces(found, image, AnalysisOptions(max_faces=2)) == [found[1], found[3]]


def test_min_face_px_counts_source_pixels():
    """A face of 20 decoded pixels in a picture decoded at half its size is 40 pixels wide."""
    image = Image(np.zeros((100, 100, 3), np.uint8), 200, 200)

    assert len(choose_faces([detection(0, 20)], image, AnalysisOptions(min_face_px=40))) == 1
    assert not choose_faces([detection(0, 20)], image, AnalysisOptions(min_face_px=41))

"""What every Detector promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from face_server.backends.onnx import OnnxBackend
from face_server.domain.image import Image
from face_server.domain.ports import Detector
from face_server.models.catalog import CATALOG
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

OPTIONS = {"cpu": DetectorOptions(), "batched": DetectorOptions(batch=3), "one pass": DetectorOptions(second_pass=False)}
CASES = [(name, how) for name, entry in CATALOG.items() if entry.task == "detector" for how in OPTIONS if how == "cpu" or name == "yunet"]


@pytest.fixture(params=CASES, ids="-".join)
async def detector(request: pytest.FixtureRequest, all_weights: WeightsStore, workers: Workers) -> AsyncIterator[Detector]:
    """Every detection network of the catalogue, and every way of running one."""
    name, how = request.param
    backend = OnnxBackend([all_weights.network(name)], workers)
    yield NetworkDetector(all_weights.entry(name), backend, workers, OPTIONS[how])
    await backend.close()


@pytest.fixture(scope="module")
def scenes(shared: Path) -> list[Image]:
    """Six faces, three faces, none."""
    names = ("friends_six_faces.jpg", "obama_and_biden.jpg")
    pictures = [np.asarray(cv2.imread(str(shared / "data/photos/scenes" / name)), np.uint8) for name in names]
    return [Image.from_pixels(picture) for picture in (*pictures, np.full((300, 400, 3), 90, np.uint8))]


class TestDetector:
    async def test_it_is_named_as_in_the_catalogue(self, detector: Detector) -> None:
        """``name`` finds its entry."""
        assert detector.name in CATALOG

    async def test_it_answers_every_picture_in_order(self, detector: Detector, scenes: list[Image]) -> None:
        """One list a picture, in the order given, empty where there is no face."""
        found = await detector.detect(scenes, min_score=0.6, max_size_px=640)
        assert [len(faces) for faces in found] == [6, 3, 0]
        back = await detector.detect(scenes[::-1], min_score=0.6, max_size_px=640)
        assert [len(faces) for faces in back] == [0, 3, 6]
        assert await detector.detect([], min_score=0.6, max_size_px=640) == []

    async def test_the_highest_score_comes_first(self, detector: Detector, scenes: list[Image]) -> None:
        """Scores fall, lie within 0..1 and reach the least score."""
        for faces in await detector.detect(scenes, min_score=0.3, max_size_px=640):
            scores = [face.score for face in faces]
            assert scores == sorted(scores, reverse=True)
            assert all(0.3 <= score <= 1 for score in scores)

    async def test_a_higher_least_score_gives_fewer_of_the_same_faces(self, detector: Detector, scenes: list[Image]) -> None:
        """Raising it drops the tail of the list; the boxes of the others stay."""
        many = (await detector.detect(scenes[:1], min_score=0.3, max_size_px=640))[0]
        least = many[len(many) // 2].score
        few = (await detector.detect(scenes[:1], min_score=least, max_size_px=640))[0]
        assert 0 < len(few) < len(many)
        assert [face.box for face in few] == [face.box for face in many[: len(few)]]

    async def test_results_are_in_the_pixels_of_the_picture(self, detector: Detector, scenes: list[Image]) -> None:
        """Whatever the size the network works at, faces lie at the same place of the picture."""
        large, small = [(await detector.detect(scenes[:1], min_score=0.6, max_size_px=size))[0] for size in (960, 512)]
        assert len(large) == len(small) == 6
        for one, two in zip(*(sorted(faces, key=lambda face: face.box.x1) for faces in (large, small)), strict=True):
            assert np.abs(one.landmarks - two.landmarks).max() < 0.12 * one.box.height
            assert abs(one.box.width - two.box.width) < 0.25 * one.box.width

    async def test_it_does_not_change_the_picture(self, detector: Detector, scenes: list[Image]) -> None:
        """Pixels are read only, and may be marked so."""
        pixels = scenes[0].pixels[:640, :640].copy()
        pixels.flags.writeable = False
        before = pixels.copy()
        await detector.detect([Image.from_pixels(pixels)], min_score=0.6, max_size_px=640)
        np.testing.assert_array_equal(pixels, before)

    async def test_views_of_larger_pictures_are_taken(self, detector: Detector, scenes: list[Image]) -> None:
        """A crop that is not contiguous in memory gives what its copy gives."""
        view = scenes[0].pixels[0:640, 300:940]
        one, two = [
            await detector.detect([Image.from_pixels(pixels)], min_score=0.6, max_size_px=640)
            for pixels in (view, np.ascontiguousarray(view))
        ]
        assert [face.box for face in one[0]] == [face.box for face in two[0]]
        assert one[0]

    async def test_it_does_not_block_the_event_loop(self, detector: Detector, scenes: list[Image]) -> None:
        """No blocking call on the loop's thread while it works."""
        with blockbuster_ctx("face_server"):
            assert len(await detector.detect(scenes, min_score=0.6, max_size_px=640)) == 3

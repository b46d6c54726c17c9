"""What the detector does around its network: canvases, scales, bounds, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest

from face_server.backends.scripted import ScriptedBackend
from face_server.domain.alignment import aligned_crop
from face_server.domain.image import Image, Pixels
from face_server.errors import InvalidInput, Unavailable
from face_server.models.catalog import CATALOG
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.workers import Workers

DETECTORS = [name for name, entry in CATALOG.items() if entry.task == "detector"]


def image(height: int, width: int, value: int = 200) -> Image:
    """A picture of one colour."""
    return Image.from_pixels(np.full((height, width, 3), value, np.uint8))


def says(*faces: tuple[int, int, float]) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray[Any, Any]]]:
    """CenterFace outputs with a face of 16×16 canvas pixels at each (row, column, score) of the heatmap."""

    def answer(inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        count, height, width, _ = inputs["images"].shape
        outputs = {
            "heatmap": np.zeros((count, 1, height // 4, width // 4), np.float32),
            "scale": np.full((count, 2, height // 4, width // 4), np.log(4.0), np.float32),
            "offset": np.zeros((count, 2, height // 4, width // 4), np.float32),
            "landmarks": np.full((count, 10, height // 4, width // 4), 0.5, np.float32),
        }
        for row, column, score in faces:
            outputs["heatmap"][:, 0, row, column] = score
        return outputs

    return answer


def scripted(answer: Callable[..., Any], workers: Workers, options: DetectorOptions) -> tuple[NetworkDetector, ScriptedBackend]:
    """A CenterFace whose network answers as told."""
    backend = ScriptedBackend({"centerface": answer})
    return NetworkDetector(CATALOG["centerface"], backend, workers, options), backend


ONE_PASS = DetectorOptions(second_pass=False)


async def test_a_picture_lies_top_left_in_a_black_canvas(workers: Workers) -> None:
    """The canvas is uint8, as small as multiples of 32 allow, and black beside and below the picture."""
    detector, backend = scripted(says(), workers, ONE_PASS)
    await detector.detect([image(300, 1000)], min_score=0.5, max_size_px=640)
    canvas = backend.calls[0].inputs["images"]
    assert canvas.dtype == np.uint8
    assert canvas.shape == (1, 192, 640, 3)
    assert (canvas[:, 192:] == 0).all()
    assert (canvas[0, :192] == 200).all()
    await detector.detect([image(50, 70)], min_score=0.5, max_size_px=640)
    canvas = backend.calls[1].inputs["images"]
    assert canvas.shape == (1, 64, 96, 3)
    assert (canvas[0, :50, :70] == 200).all()
    assert canvas.sum() == 50 * 70 * 3 * 200


async def test_a_picture_that_fits_is_not_copied(workers: Workers) -> None:
    """Multiples of 32 within the size go to the network as they are."""
    detector, backend = scripted(says(), workers, ONE_PASS)
    picture = image(480, 640)
    await detector.detect([picture], min_score=0.5, max_size_px=640)
    assert np.shares_memory(backend.calls[0].inputs["images"], picture.pixels)


async def test_results_are_in_the_pixels_of_the_picture(workers: Workers) -> None:
    """A face at a canvas position comes back at that position times the scale, in both directions apart."""
    detector, _ = scripted(says((10, 20, 0.9)), workers, ONE_PASS)
    for height, width in ((1280, 1280), (1000, 3000), (640, 640)):
        face = (await detector.detect([image(height, width)], min_score=0.5, max_size_px=640))[0][0]
        scale = 640 / max(height, width)
        across, down = 640 * (width / max(height, width)) / width, round(height * scale) / height
        expected = ((82 - 8) / across, (42 - 8) / down, (82 + 8) / across, (42 + 8) / down)
        np.testing.assert_allclose((face.box.x1, face.box.y1, face.box.x2, face.box.y2), expected, rtol=1e-5)
        np.testing.assert_allclose(face.landmarks, [(82 / across, 42 / down)] * 5, rtol=1e-5)


async def test_faces_are_suppressed_sorted_and_cut_at_the_score(workers: Workers) -> None:
    """Overlapping answers are one face; the rest come best first; a score equal to the least counts."""
    answer = says((10, 10, 0.7), (10, 11, 0.8), (40, 40, 0.5), (60, 60, 0.95), (80, 80, 0.49))
    detector, _ = scripted(answer, workers, ONE_PASS)
    faces = (await detector.detect([image(640, 640)], min_score=0.5, max_size_px=640))[0]
    assert [round(face.score, 3) for face in faces] == [0.95, 0.8, 0.5]


async def test_a_score_of_nothing_is_nobody(workers: Workers) -> None:
    """With ``min_score`` 0 every anchor that saw something is reported, and none of the thousands that saw nothing."""
    detector, _ = scripted(says((10, 10, 0.7), (40, 40, 0.01)), workers, ONE_PASS)
    faces = (await detector.detect([image(640, 640)], min_score=0.0, max_size_px=640))[0]
    assert [round(face.score, 3) for face in faces] == [0.7, 0.01]


async def test_answers_that_are_not_finite_are_no_faces(workers: Workers) -> None:
    """Infinite boxes and landmarks that are not numbers are dropped, the sound face stays."""

    def broken(inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = says((10, 10, 0.9), (40, 40, 0.9), (60, 60, 0.8))(inputs)
        outputs["scale"][:, :, 10, 10] = np.inf
        outputs["landmarks"][:, 3, 40, 40] = np.nan
        return outputs

    detector, _ = scripted(broken, workers, ONE_PASS)
    faces = (await detector.detect([image(640, 640)], min_score=0.5, max_size_px=640))[0]
    assert [round(face.score, 3) for face in faces] == [0.8]


async def test_a_second_look_is_taken_only_at_pictures_without_a_face(workers: Workers) -> None:
    """It runs on a smaller, framed canvas and is left out when a face was found or it is switched off."""
    detector, backend = scripted(says(), workers, DetectorOptions())
    assert await detector.detect([image(640, 640)], min_score=0.5, max_size_px=640) == [[]]
    first, second = (call.inputs["images"] for call in backend.calls)
    assert second.size < 0.2 * first.size
    assert (second[0, :32] == 0).all()
    assert (second[0, 40:60, 40:60] == 200).all()
    for answer, options in ((says((10, 10, 0.9)), DetectorOptions()), (says(), ONE_PASS)):
        detector, backend = scripted(answer, workers, options)
        await detector.detect([image(640, 640)], min_score=0.5, max_size_px=640)
        assert len(backend.calls) == 1


@pytest.mark.parametrize("name", DETECTORS)
async def test_a_face_that_fills_the_frame_is_found(make_detector: Callable[..., NetworkDetector], six_faces: Pixels, name: str) -> None:
    """An aligned crop, small or enlarged to the whole canvas, still gives its face, in its own pixels."""
    detector = make_detector(name)
    whole = (await detector.detect([Image.from_pixels(six_faces)], min_score=0.6, max_size_px=640))[0]
    crop = aligned_crop(six_faces, whole[0].landmarks)
    huge = Image.from_pixels(np.asarray(cv2.resize(crop, (1120, 1120), interpolation=cv2.INTER_CUBIC), np.uint8))
    for picture, scale in ((Image.from_pixels(crop), 1), (huge, 10)):
        face = (await detector.detect([picture], min_score=0.6, max_size_px=640))[0][0]
        nose = face.landmarks[2] / scale
        assert np.hypot(*(nose - (56, 72))) < 12
        assert 40 < face.box.width / scale < 112


async def test_scaling_a_picture_scales_its_faces(make_detector: Callable[..., NetworkDetector], six_faces: Pixels) -> None:
    """A picture five times as large gives the same faces five times as large."""
    detector = make_detector("yunet")
    large = np.asarray(cv2.resize(six_faces, None, fx=5, fy=5, interpolation=cv2.INTER_LINEAR), np.uint8)
    one, five = await detector.detect([Image.from_pixels(six_faces), Image.from_pixels(large)], min_score=0.6, max_size_px=640)
    assert len(one) == len(five) == 6
    for small, big in zip(*(sorted(faces, key=lambda face: face.box.x1) for faces in (one, five)), strict=True):
        assert np.abs(big.landmarks / 5 - small.landmarks).max() < 4


@pytest.mark.parametrize("name", DETECTORS)
async def test_any_size_and_shape_is_taken(make_detector: Callable[..., NetworkDetector], name: str) -> None:
    """One pixel, a line, a strip and a panorama run and hold no face."""
    pictures = [image(*shape) for shape in ((1, 1), (1, 5000), (3000, 20), (100, 8000), (33, 31))]
    found = await make_detector(name).detect(pictures, min_score=0.6, max_size_px=640)
    assert found == [[]] * len(pictures)


async def test_no_pictures_give_no_answers(workers: Workers) -> None:
    """An empty request is not an error."""
    detector, backend = scripted(says(), workers, DetectorOptions())
    assert await detector.detect([], min_score=0.5, max_size_px=640) == []
    assert not backend.calls


async def test_a_size_below_the_stride_is_refused(workers: Workers) -> None:
    """The sentence names the field and the limit."""
    detector, _ = scripted(says(), workers, DetectorOptions())
    with pytest.raises(InvalidInput, match="max_size must be at least 32 pixels, got 16") as caught:
        await detector.detect([image(64, 64)], min_score=0.5, max_size_px=16)
    assert caught.value.field == "max_size"


async def _running(backend: ScriptedBackend, count: int) -> None:
    """Wait until ``count`` calls run."""
    async with asyncio.timeout(5):
        while backend.running < count:  # noqa: ASYNC110 -- the backend has no event for this
            await asyncio.sleep(0.01)


async def test_calls_in_flight_are_bounded(workers: Workers) -> None:
    """Twenty pictures never hold more than the permitted number of calls, and all are answered."""
    detector, backend = scripted(says((1, 1, 0.9)), workers, DetectorOptions(max_concurrent=3))
    backend.block()
    task = asyncio.create_task(detector.detect([image(64, 64)] * 20, min_score=0.5, max_size_px=640))
    await _running(backend, 3)
    await asyncio.sleep(0.05)
    assert backend.running == 3
    backend.release()
    assert [len(faces) for faces in await task] == [1] * 20


async def test_batches_hold_equal_canvases(workers: Workers) -> None:
    """With a batch of 4, six pictures of any shape make two calls on full squares."""
    detector, backend = scripted(says((1, 1, 0.9)), workers, DetectorOptions(batch=4))
    pictures = [image(100 * n, 64 * n) for n in range(1, 7)]
    assert len(await detector.detect(pictures, min_score=0.5, max_size_px=320)) == 6
    assert sorted(call.inputs["images"].shape for call in backend.calls) == [(2, 320, 320, 3), (4, 320, 320, 3)]


async def test_an_error_of_the_backend_arrives_as_it_is(workers: Workers) -> None:
    """One failing picture among many raises the backend's own error and leaves nothing running."""
    detector, backend = scripted(says(), workers, ONE_PASS)
    backend.fail("centerface", Unavailable("the runtime is away"))
    with pytest.raises(Unavailable, match="the runtime is away"):
        await detector.detect([image(64, 64)] * 5, min_score=0.5, max_size_px=640)
    assert backend.running == 0


async def test_a_cancelled_caller_leaves_nothing_running(workers: Workers) -> None:
    """Cancelling detection cancels its calls."""
    detector, backend = scripted(says(), workers, DetectorOptions())
    backend.block()
    task = asyncio.create_task(detector.detect([image(64, 64)] * 5, min_score=0.5, max_size_px=640))
    await _running(backend, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.running == 0

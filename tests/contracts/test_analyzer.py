"""What every Analyzer promises: the same faces and embeddings, whoever runs the networks and wherever pictures are decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from benchmarks.triton import IN_PROCESS, PATHS, export, opened
from benchmarks.triton_server import TritonServer, missing
from face_server.domain.face import Face
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions, Analyzer, CompressedPicture
from face_server.errors import InvalidImage
from face_server.models.weights import WeightsStore
from face_server.video.images import ImageLimits, decode_image
from face_server.workers import Workers

EVERYTHING = AnalysisOptions(crops=True)
SCENES = ("two_people.jpg", "friends_six_faces.jpg", "rgba_32bit.png", "obama1.jpg")


@pytest.fixture(scope="module")
def server(weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real tritonserver with the default networks and the pipeline."""
    if reason := missing():
        pytest.skip(f"needs tritonserver: {reason}")
    folder = tmp_path_factory.mktemp("triton")
    with TritonServer(export(folder / "repository", weights.folder.parent)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def analyzers(server: TritonServer, weights: WeightsStore) -> AsyncIterator[dict[str, Analyzer]]:
    """Every path from a picture to its faces."""
    with Workers(2) as workers:
        async with opened(weights, workers, server.url) as paths:
            yield paths


@pytest.fixture(params=[IN_PROCESS, *PATHS])
def analyzer(request: pytest.FixtureRequest, analyzers: dict[str, Analyzer]) -> Analyzer:
    """Each path in turn."""
    return analyzers[request.param]


pytestmark = pytest.mark.asyncio(loop_scope="module")


def compressed(data: bytes) -> CompressedPicture:
    """A picture as it arrives."""
    return CompressedPicture(data, lambda: decode_image(data, ImageLimits()))


def same(faces: list[Face], others: list[Face]) -> None:
    """As many faces in the same order, boxes within a pixel, embeddings at cosine 0.999, and quality alike."""
    assert len(faces) == len(others)
    for one, other in zip(faces, others, strict=True):
        here, there = one.detection.box, other.detection.box
        assert max(abs(getattr(here, side) - getattr(there, side)) for side in ("x1", "y1", "x2", "y2")) < 1.0
        assert np.abs(one.detection.landmarks - other.detection.landmarks).max() < 1.0
        assert one.detection.score == pytest.approx(other.detection.score, abs=1e-3)
        assert (one.embedding is None) == (other.embedding is None)
        if one.embedding is not None and other.embedding is not None:
            assert one.embedding.similarity(other.embedding) >= 0.999
        assert (one.quality is None) == (other.quality is None)
        if one.quality is not None and other.quality is not None:
            assert one.quality.score == pytest.approx(other.quality.score, abs=0.01)
        assert (one.crop is None) == (other.crop is None)
        if one.crop is not None and other.crop is not None:
            assert np.abs(one.crop.astype(int) - other.crop.astype(int)).mean() < 1.0


@pytest.mark.parametrize("name", SCENES)
async def test_the_same_picture_has_the_same_faces(analyzer: Analyzer, analyzers: dict[str, Analyzer], shared: Path, name: str) -> None:
    """From its bytes and from its pixels."""
    data = (shared / "data/photos/scenes" / name).read_bytes()
    expected = await analyzers[IN_PROCESS].analyze_compressed(compressed(data), EVERYTHING)
    assert expected.faces
    found = await analyzer.analyze_compressed(compressed(data), EVERYTHING)
    assert (found.width, found.height) == (expected.width, expected.height)
    same(list(found.faces), list(expected.faces))
    (from_pixels,) = await analyzer.analyze([decode_image(data, ImageLimits())], EVERYTHING)
    same(from_pixels, list(expected.faces))


@pytest.mark.parametrize(
    "options",
    [
        AnalysisOptions(embed=False),
        AnalysisOptions(quality=False),
        AnalysisOptions(max_faces=2),
        AnalysisOptions(min_face_px=90),
        AnalysisOptions(mirror=True),
        AnalysisOptions(max_size_px=320),
        AnalysisOptions(min_score=0.9),
    ],
    ids=["detection", "no quality", "two faces", "large faces", "mirror", "small", "sure"],
)
async def test_options(analyzer: Analyzer, analyzers: dict[str, Analyzer], shared: Path, options: AnalysisOptions) -> None:
    """What is asked for is computed, what is not is left out."""
    data = (shared / "data/photos/scenes/friends_six_faces.jpg").read_bytes()
    expected = await analyzers[IN_PROCESS].analyze_compressed(compressed(data), options)
    found = await analyzer.analyze_compressed(compressed(data), options)
    same(list(found.faces), list(expected.faces))


async def test_a_picture_without_faces(analyzer: Analyzer) -> None:
    """Nobody is an answer."""
    grey = Image.from_pixels(np.full((480, 640, 3), 127, np.uint8))
    assert await analyzer.analyze([grey], EVERYTHING) == [[]]


async def test_a_picture_that_was_scaled(analyzer: Analyzer, analyzers: dict[str, Analyzer], shared: Path) -> None:
    """Results are in the pixels of the source, whatever was decoded."""
    image = decode_image((shared / "data/photos/scenes/two_people.jpg").read_bytes(), ImageLimits())
    scaled = replace(image, source_width=2 * image.source_width, source_height=2 * image.source_height)
    (expected,), (found,) = await analyzers[IN_PROCESS].analyze([scaled], EVERYTHING), await analyzer.analyze([scaled], EVERYTHING)
    same(found, expected)


async def test_aligned_crops(analyzer: Analyzer, analyzers: dict[str, Analyzer], shared: Path) -> None:
    """A crop has the embedding of the face it was cut from."""
    data = (shared / "data/photos/scenes/two_people.jpg").read_bytes()
    faces = (await analyzers[IN_PROCESS].analyze_compressed(compressed(data), EVERYTHING)).faces
    embedded = await analyzer.embed_crops([Image.from_pixels(face.crop) for face in faces if face.crop is not None])
    for face, again in zip(faces, embedded, strict=True):
        assert face.embedding is not None
        assert again.embedding is not None
        assert face.embedding.similarity(again.embedding) >= 0.999


async def test_many_at_once(analyzer: Analyzer, analyzers: dict[str, Analyzer], shared: Path) -> None:
    """Every caller gets the faces of its own picture."""
    pictures = [(shared / "data/photos/scenes" / name).read_bytes() for name in SCENES] * 4
    options = AnalysisOptions(quality=False)
    expected = [await analyzers[IN_PROCESS].analyze_compressed(compressed(data), options) for data in pictures[: len(SCENES)]]
    found = await asyncio.gather(*(analyzer.analyze_compressed(compressed(data), options) for data in pictures))
    for index, one in enumerate(found):
        same(list(one.faces), list(expected[index % len(SCENES)].faces))


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0 and no more"], ids=["empty", "text", "truncated"])
async def test_what_is_no_picture(analyzer: Analyzer, analyzers: dict[str, Analyzer], data: bytes) -> None:
    """It is refused in the same words everywhere."""
    with pytest.raises(InvalidImage) as expected:
        await analyzers[IN_PROCESS].analyze_compressed(compressed(data), EVERYTHING)
    with pytest.raises(InvalidImage) as refused:
        await analyzer.analyze_compressed(compressed(data), EVERYTHING)
    assert (refused.value.message, refused.value.code) == (expected.value.message, expected.value.code)

"""Pictures through the shipped pipeline: decode, detect, align, embed, measure quality."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.lfw import Mask
from face_server.backends.onnx import OnnxBackend
from face_server.domain.embedding import ModelId
from face_server.domain.face import Face
from face_server.domain.image import Floats, Image, Pixels
from face_server.domain.ports import AnalysisOptions, Embedder
from face_server.models.detector import NetworkDetector
from face_server.models.embedder import NetworkEmbedder
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.video.images import Codec, ImageLimits
from face_server.workers import Workers

_AT_ONCE = 8


@dataclass(frozen=True)
class Pipeline:
    """The parts a server composes, at their shipped defaults."""

    codec: Codec
    analyzer: LocalAnalyzer
    embedder: Embedder
    options: AnalysisOptions
    description: str

    @property
    def model(self) -> ModelId:
        """The model of the embeddings."""
        return self.embedder.model


@asynccontextmanager
async def open_pipeline(weights: WeightsStore, detector: str, embedder: str, threads: int | None = None) -> AsyncIterator[Pipeline]:
    """Compose a pipeline on ONNX Runtime; the detector at its own default score, pictures at 640 px."""
    finder, knower = weights.entry(detector), weights.entry(embedder)
    networks = [weights.pull(detector), weights.pull(embedder)]
    with Workers(threads) as workers:
        backend = await OnnxBackend.open(networks, workers)
        embed = NetworkEmbedder(knower, networks[1], backend)
        analyzer = LocalAnalyzer(NetworkDetector(finder, backend, workers), embed, workers)
        options = AnalysisOptions(min_score=finder.detection_score, crops=True)
        yield Pipeline(Codec(workers, ImageLimits()), analyzer, embed, options, f"{detector} + {embed.model} on {backend.description}")
        await backend.close()


@dataclass(frozen=True, eq=False)
class Shots:
    """One face of each of N pictures. Rows of pictures without a face are NaN (crops are black).

    ``probe`` holds raw N×d features as a search makes them, ``template`` those that enrolment stores.
    ``size_px`` is the shorter side of the box.
    """

    found: Mask
    probe: Floats
    template: Floats
    landmarks: Floats
    size_px: Floats
    detection_score: Floats
    crops: Pixels

    def save(self, file: Path) -> None:
        """Write everything to an .npz file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def mirrored(self) -> Floats:
        """Raw features of the mirrored crops alone: templates are the mean of these and ``probe``."""
        return 2 * self.template - self.probe

    @classmethod
    def load(cls, file: Path) -> Shots:
        """Read what ``save`` wrote."""
        with np.load(file, allow_pickle=False) as content:
            return cls(**{field.name: content[field.name] for field in fields(cls)})


def central_face(faces: Sequence[Face], image: Image) -> Face | None:
    """The face whose box is centred nearest the picture's centre: the one LFW names."""

    def distance(face: Face) -> float:
        box = face.detection.box
        return float(np.hypot(box.x1 + box.x2 - image.source_width, box.y1 + box.y2 - image.source_height))

    return min(faces, key=distance, default=None)


async def take_shots(pipeline: Pipeline, files: Sequence[Path]) -> Shots:
    """Analyse every file; the order is kept."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(file: Path) -> Shots:
        async with places:
            return await _shot(pipeline, file)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(file)) for file in files]
    rows = [task.result() for task in tasks]
    return Shots(**{field.name: np.concatenate([getattr(row, field.name) for row in rows]) for field in fields(Shots)})


async def cached_shots(pipeline: Pipeline, files: Sequence[Path], detector: str, cache: Path | None) -> Shots:
    """``take_shots``, or what an earlier run with the same networks and files left in ``cache``."""
    if cache is None:
        return await take_shots(pipeline, files)
    listing = hashlib.sha256("\n".join(map(str, files)).encode()).hexdigest()[:12]
    file = cache / f"{detector}-{pipeline.model.name}-{pipeline.model.digest}-{pipeline.model.preprocessing}-{listing}.npz"
    if not file.is_file():
        (await take_shots(pipeline, files)).save(file)
    return Shots.load(file)


async def _shot(pipeline: Pipeline, file: Path) -> Shots:
    image = await pipeline.codec.decode(await asyncio.to_thread(file.read_bytes), max_size_px=pipeline.options.max_size_px)
    (faces,) = await pipeline.analyzer.analyze([image], pipeline.options)
    face = central_face(faces, image)
    width = pipeline.model.dimension
    if face is None or face.embedding is None or face.crop is None:
        nothing = np.full((1, width), np.nan, np.float32)
        gap = np.full(1, np.nan, np.float32)
        landmarks = np.full((1, 5, 2), np.nan, np.float32)
        return Shots(np.zeros(1, np.bool_), nothing, nothing, landmarks, gap, gap, np.zeros((1, 112, 112, 3), np.uint8))
    crops = face.crop[None]
    template = await pipeline.embedder.embed(crops, mirror=True)
    box = face.detection.box
    return Shots(
        np.ones(1, np.bool_),
        (face.embedding.vector * np.float32(face.embedding.norm))[None],
        template.vectors * template.norms[:, None],
        face.detection.landmarks[None],
        np.array([min(box.width, box.height)], np.float32),
        np.array([face.detection.score], np.float32),
        crops,
    )

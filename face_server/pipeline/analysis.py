"""Images to faces with networks that run behind a local ``Backend``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from face_server.domain.alignment import CROP_SIZE_PX, aligned_crops
from face_server.domain.embedding import ModelId
from face_server.domain.face import Box, Detection, Face
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import Analysis, AnalysisOptions, CompressedPicture, DetectHere, Detector, Embedder, EmbedHere
from face_server.domain.quality import measure_quality
from face_server.workers import Workers, map_bounded

_AT_ONCE = 8
"""Images of one call that are analysed side by side."""

_NO_CROPS = np.empty((0, CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)


class LocalAnalyzer:
    """Detector + alignment + embedder. Implements ``domain.ports.Analyzer``."""

    def __init__(self, detector: Detector, embedder: Embedder, workers: Workers) -> None:
        self._detector = detector
        self._embedder = embedder
        self._workers = workers

    @property
    def model(self) -> ModelId:
        """The model of the embeddings."""
        return self._embedder.model

    async def analyze(self, images: Sequence[Image], options: AnalysisOptions) -> list[list[Face]]:
        """Per image its faces in source-image pixels, highest score first."""
        detect, embed = self._detector.runner(), self._embedder.runner()
        if detect is not None and embed is not None:

            async def analyze(image: Image) -> list[Face]:
                return (await self._analyze_here(lambda: image, options, detect, embed))[1]

            return await map_bounded(analyze, images, _AT_ONCE)
        found = await self._detector.detect(images, min_score=options.min_score, max_size_px=options.max_size_px)
        return list(await asyncio.gather(*map(self._describe, images, found, [options] * len(images))))

    async def analyze_compressed(self, picture: CompressedPicture, options: AnalysisOptions) -> Analysis:
        """The faces of a picture that a worker thread decodes, the one that analyses it where networks run here."""
        decode_ms = 0.0

        def read() -> Image:
            nonlocal decode_ms
            started = time.perf_counter()
            image = picture.decode()
            decode_ms = 1000 * (time.perf_counter() - started)
            return image

        detect, embed = self._detector.runner(), self._embedder.runner()
        if detect is not None and embed is not None:
            image, faces = await self._analyze_here(read, options, detect, embed)
        else:
            image = await self._workers.run(read)
            (faces,) = await self.analyze([image], options)
        return Analysis(image.source_width, image.source_height, tuple(faces), decode_ms)

    async def _analyze_here(
        self, read: Callable[[], Image], options: AnalysisOptions, detect: DetectHere, embed: EmbedHere
    ) -> tuple[Image, list[Face]]:
        """Analyse with networks of this process: one pass through a worker for up to one face, more faces side by side."""

        def work() -> tuple[Image, list[Face], Pixels | None]:
            image = read()
            faces, crops = found_faces(image, options, detect)
            if options.embed and len(faces) == 1:
                (embedding,) = embed(crops, options.mirror)
                return image, [faces[0].with_embedding(embedding)], None
            return image, faces, crops

        image, faces, crops = await self._workers.run(work)
        return image, faces if crops is None else await self._embedded(faces, crops, options)

    async def embed_crops(self, crops: Sequence[Image], *, mirror: bool = False) -> list[Face]:
        """One face per already aligned picture; its detection is the whole picture with score 1."""
        pixels = await self._workers.run(stack_crops, crops)
        embeddings = await self._embedder.embed(pixels, mirror=mirror)
        return [Face(_whole(crop), embedding=embedding, crop=one) for crop, embedding, one in zip(crops, embeddings, pixels, strict=True)]

    async def _describe(self, image: Image, detections: Sequence[Detection], options: AnalysisOptions) -> list[Face]:
        chosen = choose_faces(detections, image, options)
        faces, crops = await self._workers.run(_crop_and_measure, image, chosen, options)
        return await self._embedded(faces, crops, options)

    async def _embedded(self, faces: list[Face], crops: Pixels, options: AnalysisOptions) -> list[Face]:
        if not (faces and options.embed):
            return faces
        embeddings = await self._embedder.embed(crops, mirror=options.mirror)
        return [face.with_embedding(embedding) for face, embedding in zip(faces, embeddings, strict=True)]


def analyze_here(image: Image, options: AnalysisOptions, detect: DetectHere, embed: EmbedHere) -> list[Face]:
    """The faces of ``image``, altogether in the calling thread; all of them are embedded in one call."""
    faces, crops = found_faces(image, options, detect)
    if not (faces and options.embed):
        return faces
    return [face.with_embedding(embedding) for face, embedding in zip(faces, embed(crops, options.mirror), strict=True)]


def embed_here(crops: Pixels, embed: EmbedHere, *, mirror: bool) -> list[Face]:
    """``Analyzer.embed_crops`` of N×112×112×3 pixels, altogether in the calling thread."""
    whole = [_whole(Image.from_pixels(crop)) for crop in crops]
    return [Face(*face) for face in zip(whole, [None] * len(crops), embed(crops, mirror), crops, strict=True)]


def found_faces(image: Image, options: AnalysisOptions, detect: DetectHere) -> tuple[list[Face], Pixels]:
    """The chosen faces of ``image`` and their aligned crops, not yet embedded."""
    found = detect(image, options.min_score, options.max_size_px)
    return _crop_and_measure(image, choose_faces(found, image, options), options)


def choose_faces(detections: Sequence[Detection], image: Image, options: AnalysisOptions) -> list[Detection]:
    """Drop faces narrower than ``min_face_px`` source pixels, then keep the ``max_faces`` largest, in the given order."""
    scale_x, _ = image.source_scale
    chosen = [detection for detection in detections if detection.box.width * scale_x >= options.min_face_px]
    if options.max_faces and len(chosen) > options.max_faces:
        largest = sorted(range(len(chosen)), key=lambda index: -chosen[index].box.area)[: options.max_faces]
        chosen = [chosen[index] for index in sorted(largest)]
    return chosen


def _crop_and_measure(image: Image, detections: Sequence[Detection], options: AnalysisOptions) -> tuple[list[Face], Pixels]:
    if not (options.embed or options.quality or options.crops):
        return [Face(detection.scaled(*image.source_scale)) for detection in detections], _NO_CROPS
    crops = aligned_crops(image.pixels, detections)
    faces = []
    for detection, crop in zip(detections, crops, strict=True):
        in_source = detection.scaled(*image.source_scale)
        face = Face(in_source, crop=crop if options.crops else None)
        if options.quality:
            size_px = min(in_source.box.width, in_source.box.height)
            quality = measure_quality(crop, in_source.landmarks, size_px=size_px, detection_score=detection.score)
            face = replace(face, quality=quality)
        faces.append(face)
    return faces, crops


def stack_crops(crops: Sequence[Image]) -> Pixels:
    """Aligned pictures as one N×112×112×3 array; those of another size are resized."""
    size = (CROP_SIZE_PX, CROP_SIZE_PX)
    stack = np.empty((len(crops), *size, 3), np.uint8)
    for index, crop in enumerate(crops):
        stack[index] = crop.pixels if crop.pixels.shape[:2] == size else cv2.resize(crop.pixels, size, interpolation=cv2.INTER_LINEAR)
    return stack


def _whole(crop: Image) -> Detection:
    landmarks = np.zeros((5, 2), np.float32)
    return Detection(Box(0, 0, crop.source_width, crop.source_height), 1.0, landmarks)

"""Images to faces on a remote inference server that runs the whole pipeline: one call a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from face_server.domain import face_pipeline
from face_server.domain.embedding import ModelId
from face_server.domain.face import Face
from face_server.domain.face_pipeline import Question
from face_server.domain.image import Image
from face_server.domain.ports import Analysis, AnalysisOptions, Analyzer, CompressedPicture, RemoteModels, Tensors
from face_server.errors import InputTooLarge, ModelMismatch, Unavailable
from face_server.workers import map_bounded

_AT_ONCE = 8
"""Images of one call that are under way side by side."""


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """Bounds on compressed pictures, enforced where they are decoded; 0 for those of the remote server."""

    max_bytes: int = 0
    max_pixels: int = 0


class RemoteAnalyzer:
    """Sends pictures as they came, or pixels, to the model ``face_pipeline``; implements ``domain.ports.Analyzer``.

    Aligned crops are embedded by ``local``: for them one call of the network is all there is.
    ``second_pass`` see ``models.detector.DetectorOptions``. ``observer`` is told how many seconds
    each call took.
    """

    def __init__(
        self,
        remote: RemoteModels,
        local: Analyzer,
        limits: RemoteLimits = RemoteLimits(),
        *,
        second_pass: bool = True,
        observer: Callable[[float], None] | None = None,
    ) -> None:
        self._remote = remote
        self._local = local
        self._limits = limits
        self._second_pass = second_pass
        self._observer = observer
        self._outputs = tuple(spec.name for spec in face_pipeline.outputs(local.model.dimension))

    @property
    def model(self) -> ModelId:
        """The model of the embeddings."""
        return self._local.model

    async def analyze(self, images: Sequence[Image], options: AnalysisOptions) -> list[list[Face]]:
        """Per image its faces in source-image pixels, highest score first."""

        async def analyze(image: Image) -> list[Face]:
            question = Question(options, source_width=image.source_width, source_height=image.source_height, second_pass=self._second_pass)
            found = await self._ask({"frame": np.ascontiguousarray(image.pixels)}, question)
            return list(found.faces)

        return await map_bounded(analyze, images, _AT_ONCE)

    async def analyze_compressed(self, picture: CompressedPicture, options: AnalysisOptions) -> Analysis:
        """The faces of a picture that is decoded by the remote server, under the same limits and with the same errors as here."""
        limit = self._limits.max_bytes
        if limit and len(picture.data) > limit:
            raise InputTooLarge(f"the picture has {len(picture.data)} bytes, at most {limit} are allowed")
        if not picture.data:
            # A tensor cannot be empty; here it is refused in the usual words.
            picture.decode()
        question = Question(options, max_bytes=limit, max_pixels=self._limits.max_pixels, second_pass=self._second_pass)
        return await self._ask({"encoded": np.frombuffer(picture.data, np.uint8)}, question)

    async def embed_crops(self, crops: Sequence[Image], *, mirror: bool = False) -> list[Face]:
        """One face per already aligned picture."""
        return await self._local.embed_crops(crops, mirror=mirror)

    async def _ask(self, picture: Tensors, question: Question) -> Analysis:
        started = time.perf_counter()
        answer = await self._remote.call(face_pipeline.NAME, {**picture, "options": question.to_tensor()}, self._outputs)
        if self._observer is not None:
            self._observer(time.perf_counter() - started)
        try:
            return face_pipeline.read_answer(answer, self.model)
        except ModelMismatch as error:
            raise Unavailable(error.message, code=error.code) from error

"""What callers send as pictures, read into images; and many pictures analysed side by side."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from face_server.domain.face import Face
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions, Analyzer, CompressedPicture, ImageCodec, ImageFetcher
from face_server.errors import FaceServerError, InputTooLarge, InvalidInput
from face_server.workers import Workers, map_bounded


@dataclass(frozen=True, slots=True)
class Base64Picture:
    """A compressed picture as base64 text, with or without a ``data:…;base64,`` prefix."""

    text: str | bytes


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture behind an http(s) URL, and headers to fetch it with."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


_Work = Callable[["Source"], Awaitable["Extraction"]]

Source = bytes | Base64Picture | RemotePicture
"""A compressed picture: its bytes, or where they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """An image, the time reading took, and the sha256 hex of its compressed bytes if asked for."""

    image: Image
    took_ms: float
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Extraction:
    """The faces of one picture, its size in source pixels, and how long its stages took."""

    width: int
    height: int
    faces: tuple[Face, ...]
    read_ms: float
    analyze_ms: float


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """``max_images`` pictures a call, ``concurrency`` of them in memory as pixels at a time."""

    max_images: int = 256
    concurrency: int = 8


class Intake:
    """Reads pictures and runs the analyzer over them; a picture that fails, fails alone."""

    def __init__(self, codec: ImageCodec, fetcher: ImageFetcher, analyzer: Analyzer, workers: Workers, limits: IntakeLimits) -> None:
        self._codec = codec
        self._fetcher = fetcher
        self._analyzer = analyzer
        self._workers = workers
        self.limits = limits

    async def read(self, source: Source, *, max_size_px: int | None = None, digest: bool = False) -> Reading:
        """Fetch and decode one picture. Errors are those of ``ImageCodec`` and ``ImageFetcher``."""
        started = time.perf_counter()
        data = await self._compressed(source)
        image = await self._codec.decode(data, max_size_px=max_size_px)
        took_ms = 1000 * (time.perf_counter() - started)
        return Reading(image, took_ms, await self._workers.run(_sha256, data) if digest else "")

    async def extract(self, sources: Sequence[Source], options: AnalysisOptions) -> list[Extraction | FaceServerError]:
        """Per picture its faces, or the error that this picture met.

        Raises InvalidInput for no pictures and InputTooLarge for more than ``limits.max_images``.
        """
        return await self._each(sources, lambda source: self._extract_one(source, options))

    async def embed_crops(self, sources: Sequence[Source], *, mirror: bool = False) -> list[Extraction | FaceServerError]:
        """As ``extract`` for pictures that are aligned crops already: one face each."""
        return await self._each(sources, lambda source: self._embed_one(source, mirror=mirror))

    async def _extract_one(self, source: Source, options: AnalysisOptions) -> Extraction:
        # A scaled decode is enough to find faces; embeddings of small ones would differ from those of a full decode.
        max_size_px = None if options.embed else options.max_size_px
        started = time.perf_counter()
        data = await self._compressed(source)
        picture = CompressedPicture(data, lambda: self._codec.decode_here(data, max_size_px=max_size_px))
        fetched = time.perf_counter()
        found = await self._analyzer.analyze_compressed(picture, options)
        read_ms = 1000 * (fetched - started) + found.decode_ms
        return Extraction(found.width, found.height, found.faces, read_ms, 1000 * (time.perf_counter() - started) - read_ms)

    async def _compressed(self, source: Source) -> bytes:
        match source:
            case RemotePicture(url, headers):
                return await self._fetcher.fetch(url, headers)
            case Base64Picture(text):
                return await self._codec.decode_base64(text)
            case bytes():
                return source

    async def _embed_one(self, source: Source, *, mirror: bool) -> Extraction:
        reading = await self.read(source)
        started = time.perf_counter()
        faces = await self._analyzer.embed_crops([reading.image], mirror=mirror)
        return Extraction(
            reading.image.source_width, reading.image.source_height, tuple(faces), reading.took_ms, 1000 * (time.perf_counter() - started)
        )

    async def _each(self, sources: Sequence[Source], work: _Work) -> list[Extraction | FaceServerError]:
        if not sources:
            raise InvalidInput("no images were sent", field="images")
        if len(sources) > self.limits.max_images:
            raise InputTooLarge(f"{len(sources)} images in one request, at most {self.limits.max_images} are allowed", field="images")

        async def one(source: Source) -> Extraction | FaceServerError:
            try:
                return await work(source)
            except InvalidInput as error:
                return error

        # What is no picture's fault (a dependency away, a bound reached) fails the call.
        return await map_bounded(one, sources, self.limits.concurrency)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

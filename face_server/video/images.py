"""Compressed pictures to pixels and back."""

from __future__ import annotations

from face_server.domain.image import Image, Pixels, check_pixels
from face_server.errors import InvalidInput
from face_server.video.base64_data import decode_base64
from face_server.video.formats import ImageLimits, Kind, detect_kind
from face_server.video.jpeg import decode_jpeg, encode_jpeg
from face_server.video.stills import decode_still
from face_server.workers import Workers

__all__ = ["Codec", "ImageLimits", "decode_image"]

# Base64 of this length decodes in about 20 µs, less than the way to a worker thread and back.
_INLINE_BASE64 = 32 * 1024


def decode_image(data: bytes, limits: ImageLimits, max_size_px: int | None = None) -> Image:
    """Decode JPEG, PNG, WebP, BMP, TIFF or GIF (first frame or page), upright by its EXIF orientation.

    ``max_size_px`` permits a scaled decode of a JPEG, see ``face_server.video.jpeg.HEADROOM``.
    Raises InvalidImage for anything that is not a complete picture, InputTooLarge by bytes or by
    the size in the header, before decoding.
    """
    limits.check_bytes(len(data))
    kind = detect_kind(data)
    if kind is Kind.JPEG:
        return decode_jpeg(data, limits, max_size_px)
    return Image.from_pixels(decode_still(data, kind, limits))


class Codec:
    """``ImageCodec`` on libjpeg-turbo for JPEG and Pillow for the rest, in worker threads."""

    def __init__(self, workers: Workers, limits: ImageLimits) -> None:
        self._workers = workers
        self.limits = limits

    async def decode(self, data: bytes, *, max_size_px: int | None = None) -> Image:
        """See ``ImageCodec.decode`` and ``decode_image``."""
        return await self._workers.run(decode_image, data, self.limits, max_size_px)

    def decode_here(self, data: bytes, *, max_size_px: int | None = None) -> Image:
        """See ``ImageCodec.decode_here``."""
        return decode_image(data, self.limits, max_size_px)

    async def decode_base64(self, text: str | bytes) -> bytes:
        """See ``ImageCodec.decode_base64``."""
        if len(text) <= _INLINE_BASE64:
            return decode_base64(text, self.limits.max_bytes)
        return await self._workers.run(decode_base64, text, self.limits.max_bytes)

    async def encode_jpeg(self, pixels: Pixels, *, quality: int = 90) -> bytes:
        """See ``ImageCodec.encode_jpeg``. Raises InvalidInput for a ``quality`` outside 1..100."""
        if not 1 <= quality <= 100:
            raise InvalidInput(f"quality is {quality}, it must be 1 to 100", field="quality")
        check_pixels(pixels, "pixels to encode")
        return await self._workers.run(encode_jpeg, pixels, quality)

"""JPEG through libjpeg-turbo: strict, upright, and smaller at once where that is enough."""

from __future__ import annotations

import numpy as np
import simplejpeg  # type: ignore[import-untyped]  # ships stubs without a py.typed marker

from face_server.domain.image import Image, Pixels
from face_server.errors import InvalidImage
from face_server.video.formats import ImageLimits, Kind
from face_server.video.orientation import jpeg_orientation, upright
from face_server.video.stills import decode_still

HEADROOM = 3
"""A scaled decode keeps at least this many times ``max_size_px`` on its long side.

Crops are cut from the decoded pixels, so too small a decode costs recognition. Measured on 40
faces, embeddings of a halved and of a full decode agree to a cosine of .9994 or more once a face
is 130 px wide in the halved one, to .998 at 80 px and to .91 below 60 px, provided alignment
averages over the pixels that fall into one pixel of the crop; where it picks single ones, the full
decode is what aliases, and .96 is all that can be had. At 3 × 640 px, 130 px is 7 % of the long
side, and a 12-megapixel photo may still be halved. Who needs every pixel asks for no scale.
"""

_MAX_SCANS = 100
"""Progressive files have about ten scans; thousands of empty ones would keep a decoder busy for minutes."""

_HARMLESS = (
    "extraneous bytes before marker",
    "Invalid SOS parameters for sequential JPEG",
    "unknown JFIF revision number",
    "Unknown Adobe color transform code",
)
"""Warnings of libjpeg about files that sloppy writers make and that are complete all the same."""


def decode_jpeg(data: bytes, limits: ImageLimits, max_size_px: int | None) -> Image:
    """Decode any 8-bit JPEG (grey, YCbCr, RGB, CMYK, YCCK; baseline or progressive), upright.

    At full size, or, where ``max_size_px`` permits, at the smallest of 1/2, 1/4 and 1/8 that
    leaves the long side ``HEADROOM`` times as long. A truncated or damaged file raises
    InvalidImage; InputTooLarge by the size in the header.
    """
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise InvalidImage(f"the JPEG picture has more than {_MAX_SCANS} scans")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        limits.check_size(width, height)
        divisor = _divisor(max(width, height), max_size_px)
        stored = simplejpeg.decode_jpeg(data, "BGR", min_width=-(-width // divisor), min_height=-(-height // divisor))
    except ValueError as error:
        return _decode_sloppy(data, limits, error)
    orientation = jpeg_orientation(data)
    if orientation >= 5:
        width, height = height, width
    return Image(upright(np.asarray(stored, np.uint8), orientation), width, height)


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode H×W×3 BGR; colour at full resolution up to 512 px, where crops need it, else 4:2:0."""
    subsampling = "444" if max(pixels.shape[:2]) <= 512 else "420"
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "BGR", subsampling))


def _divisor(long_side_px: int, max_size_px: int | None) -> int:
    """1, 2, 4 or 8: the scales that libjpeg-turbo has vectorised, so less than a half saves nothing."""
    if max_size_px is None or max_size_px <= 0:
        return 1
    return next((divisor for divisor in (8, 4, 2) if long_side_px >= HEADROOM * max_size_px * divisor), 1)


def _decode_sloppy(data: bytes, limits: ImageLimits, warning: ValueError) -> Image:
    """Decode a file whose first warning was harmless, by a decoder that still refuses a truncated one."""
    message = str(warning)
    if any(harmless in message for harmless in _HARMLESS):
        return Image.from_pixels(decode_still(data, Kind.JPEG, limits))
    what = "truncated" if message.startswith("Premature end") else "truncated or damaged"
    raise InvalidImage(f"the JPEG picture is {what}") from warning

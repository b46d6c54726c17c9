"""Every format but everyday JPEG, decoded by Pillow."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL import Image as Pillow

from face_server.domain.image import Pixels
from face_server.errors import FaceServerError, InputTooLarge, InvalidImage
from face_server.video.formats import ImageLimits, Kind
from face_server.video.orientation import exif_orientation, upright

# The decoders by name, so that bytes never reach a decoder their signature does not call for.
_DECODERS: dict[Kind, type[ImageFile.ImageFile]] = {
    Kind.JPEG: JpegImagePlugin.JpegImageFile,
    Kind.PNG: PngImagePlugin.PngImageFile,
    Kind.WEBP: WebPImagePlugin.WebPImageFile,
    Kind.BMP: BmpImagePlugin.BmpImageFile,
    Kind.TIFF: TiffImagePlugin.TiffImageFile,
    Kind.GIF: GifImagePlugin.GifImageFile,
}

_BEHIND_TRANSPARENT = (128, 128, 128)


def decode_still(data: bytes, kind: Kind, limits: ImageLimits) -> Pixels:
    """Decode the first frame or page to upright H×W×3 uint8 BGR.

    Sixteen-bit channels keep their high byte. Transparent parts show neutral grey, as people see
    them on a page: what lies hidden under transparent pixels is no part of the picture. Colour
    profiles are ignored, as recognition networks were trained without them.

    Raises InvalidImage for truncated or damaged data and for 32-bit channels, InputTooLarge by
    the size in the header, before pixels are decoded.
    """
    try:
        if kind is Kind.WEBP:
            limits.check_size(*_webp_size(data))  # Pillow allocates the canvas when it opens a WebP
        with _DECODERS[kind](io.BytesIO(data)) as picture:
            limits.check_size(*picture.size)
            pixels = _to_bgr(picture)
            orientation = _orientation(picture, kind)
    except FaceServerError:
        raise
    except Pillow.DecompressionBombError as error:
        raise InputTooLarge(f"the picture has more than the {limits.max_pixels} pixels that are allowed") from error
    except Exception as error:  # the edge to parsers that meet hostile bytes with exceptions of any type
        raise InvalidImage(f"the {kind} picture is truncated or damaged") from error
    return upright(pixels, orientation)


def _orientation(picture: ImageFile.ImageFile, kind: Kind) -> int:
    """What is left to turn: Pillow turns a TIFF while it loads it."""
    exif = picture.info.get("exif")
    return exif_orientation(exif) if isinstance(exif, bytes) and kind is not Kind.TIFF else 1


def _to_bgr(picture: ImageFile.ImageFile) -> Pixels:
    picture.load()
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    if picture.mode in ("I", "F"):
        raise InvalidImage("the picture has 32 bits a channel, only 8 and 16 are supported")
    rgb = _over_grey(picture.convert("RGBA")) if picture.has_transparency_data else picture.convert("RGB")
    return np.asarray(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR), np.uint8)


def _over_grey(picture: Pillow.Image) -> Pillow.Image:
    canvas = Pillow.new("RGB", picture.size, _BEHIND_TRANSPARENT)
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the first chunk's header (RFC 9649, sections 2.5 to 2.7)."""
    chunk, payload = data[12:16], data[20:30]
    if len(payload) == 10:
        if chunk == b"VP8X":
            return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1
        if chunk == b"VP8L":
            bits = int.from_bytes(payload[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if chunk == b"VP8 ":
            return int.from_bytes(payload[6:8], "little") & 0x3FFF, int.from_bytes(payload[8:10], "little") & 0x3FFF
    raise InvalidImage("the WebP picture is truncated or damaged")

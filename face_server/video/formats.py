"""What kind of picture some bytes are, and how large a picture may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from face_server.errors import InputTooLarge, InvalidImage

PILLOW_MAX_PIXELS = 178_956_970
"""Where Pillow itself refuses a picture whatever is configured here."""


class Kind(StrEnum):
    """Formats that are decoded."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"
    GIF = "GIF"


SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF"

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", Kind.JPEG),
    (b"\x89PNG\r\n\x1a\n", Kind.PNG),
    (b"GIF87a", Kind.GIF),
    (b"GIF89a", Kind.GIF),
    (b"II*\x00", Kind.TIFF),
    (b"MM\x00*", Kind.TIFF),
    (b"II+\x00", Kind.TIFF),
    (b"MM\x00+", Kind.TIFF),
    (b"BM", Kind.BMP),
)

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop document"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"FLV", "a Flash video"),
)

_FOREIGN_TEXT: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"data:", "a data: URL where the bytes of a picture are expected"),
    (b"/9j/", "base64 text where the bytes of a picture are expected"),
    (b"ivborw0kgg", "base64 text where the bytes of a picture are expected"),
    (b"{", "text"),
    (b"[", "text"),
)

_ISO_BRANDS: dict[bytes, str] = {
    b"heic": "a HEIC picture",
    b"heix": "a HEIC picture",
    b"mif1": "a HEIF picture",
    b"msf1": "a HEIF picture",
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on pictures: compressed bytes, pixels by the header, and the shorter side in pixels."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    min_side_px: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS or self.max_bytes < 1 or self.min_side_px < 1:
            raise ValueError(f"ImageLimits need max_bytes >= 1, min_side_px >= 1 and 1 <= max_pixels <= {PILLOW_MAX_PIXELS}, got {self}")

    def check_bytes(self, size: int) -> None:
        """Refuse no bytes (InvalidImage) and more bytes than allowed (InputTooLarge)."""
        if size == 0:
            raise InvalidImage("the picture is empty (0 bytes)")
        if size > self.max_bytes:
            raise InputTooLarge(f"the picture has {size} bytes, at most {self.max_bytes} are allowed")

    def check_size(self, width: int, height: int) -> None:
        """Refuse a ``width``×``height`` picture that is too small (InvalidImage) or too large (InputTooLarge)."""
        if width * height > self.max_pixels:
            raise InputTooLarge(f"the picture is {width}×{height} = {width * height} pixels, at most {self.max_pixels} are allowed")
        if min(width, height) < self.min_side_px:
            raise InvalidImage(f"the picture is {width}×{height} pixels, each side needs at least {self.min_side_px}")


def detect_kind(data: bytes) -> Kind:
    """The format by the first bytes; names and content types are never trusted.

    Raises InvalidImage that names what the data is instead where it is recognised, without
    repeating any of it.
    """
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Kind.WEBP
    raise InvalidImage(f"the data is {_foreign_kind(data)}, not a picture in a supported format ({SUPPORTED})")


def _foreign_kind(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "an MP4 or QuickTime video")
    if data[:4] == b"RIFF":
        return "an AVI video or a sound"
    for signature, name in _FOREIGN:
        if data.startswith(signature):
            return name
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, name in _FOREIGN_TEXT:
        if start.startswith(signature):
            return name
    return "text" if start and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start) else "of an unknown kind"

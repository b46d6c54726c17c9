"""Pictures made on the spot."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from face_server.domain.image import Pixels

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="session")
def upright_pixels() -> Pixels:
    """A smooth 96×64 BGR picture in which no flip or turn of any part looks like another."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    blue = 40 + 180 * x / WIDTH
    green = 30 + 200 * y / HEIGHT
    red = 20 + 110 * x / WIDTH + 110 * (y / HEIGHT) ** 2
    return np.dstack([blue, green, red]).astype(np.uint8)


def encoded(pixels: Pixels, form: str, **options: object) -> bytes:
    """BGR pixels as a file, written by Pillow."""
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def huge_headers(side: int) -> dict[str, bytes]:
    """Per format a small file whose header states ``side``×``side`` pixels."""
    small = np.zeros((16, 16, 3), np.uint8)
    two, four = struct.pack(">H", side), struct.pack("<i", side)
    jpeg = bytearray(encoded(small, "JPEG"))
    start_of_frame = jpeg.index(b"\xff\xc0")
    jpeg[start_of_frame + 5 : start_of_frame + 9] = two + two
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png += png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    bmp = bytearray(encoded(small, "BMP"))
    bmp[18:26] = four + four
    gif = bytearray(encoded(small, "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + 2 * (side - 1).to_bytes(3, "little")
    webp = b"RIFF" + struct.pack("<I", 4 + len(extended) + 26) + b"WEBP" + extended + encoded(small, "WEBP", lossless=True)[12:38]
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 104
    return {"JPEG": bytes(jpeg), "PNG": png, "BMP": bytes(bmp), "GIF": bytes(gif), "WebP": webp, "TIFF": tiff}

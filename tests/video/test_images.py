"""Every format, every orientation, every scale: the same picture comes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image as Pillow
from PIL import ImageOps

from face_server.domain.image import Pixels
from face_server.errors import InvalidImage
from face_server.video.images import ImageLimits, decode_image
from face_server.video.jpeg import HEADROOM

from .conftest import encoded

LIMITS = ImageLimits()

STORED_AS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera held each way stores an upright picture (EXIF 2.3, tag 274)."""


def difference(left: Pixels, right: Pixels) -> float:
    """Mean absolute difference of grey levels."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(np.int16) - right.astype(np.int16)).mean())


def saved(picture: Pillow.Image, form: str, **options: object) -> bytes:
    """A Pillow picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def as_pillow(pixels: Pixels) -> Pillow.Image:
    """BGR pixels as a Pillow picture."""
    return Pillow.fromarray(np.ascontiguousarray(pixels[..., ::-1]))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_lossless_formats(upright_pixels: Pixels, form: str, options: dict[str, object]) -> None:
    """Lossless formats give the very pixels that were stored, contiguous, at their full size."""
    image = decode_image(encoded(upright_pixels, form, **options), LIMITS)
    assert difference(image.pixels, upright_pixels) <= (3 if "jpeg" in options.values() else 0)
    assert image.pixels.flags.c_contiguous
    assert (image.source_width, image.source_height) == (96, 64)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 2}, {"optimize": True}])
def test_jpeg_variants(upright_pixels: Pixels, options: dict[str, object]) -> None:
    """Baseline, progressive, restarting and subsampled JPEGs show the picture, exactly as OpenCV decodes them."""
    data = encoded(upright_pixels, "JPEG", quality=95, **options)
    pixels = decode_image(data, LIMITS).pixels
    assert difference(pixels, upright_pixels) < 3
    np.testing.assert_array_equal(pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_jpeg_equals_opencv_on_real_photos(shared: Path) -> None:
    """Real photos decode to the bit as OpenCV decodes them, so existing templates keep their meaning."""
    photos = sorted((shared / "data/photos").rglob("*.jp*g"))
    assert len(photos) > 20
    for photo in photos:
        expected = cv2.imdecode(np.frombuffer(photo.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decode_image(photo.read_bytes(), LIMITS).pixels, expected, err_msg=photo.name)


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_jpeg(upright_pixels: Pixels, transform: int) -> None:
    """CMYK and YCCK JPEGs of print shops come out in the right colours."""
    data = saved(as_pillow(upright_pixels).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    if transform == 2:
        adobe = data.index(b"Adobe\x00d")
        data = data[: adobe + 11] + b"\x02" + data[adobe + 12 :]
        np.testing.assert_array_equal(decode_image(data, LIMITS).pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    else:
        assert difference(decode_image(data, LIMITS).pixels, upright_pixels) < 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_grey(upright_pixels: Pixels, form: str) -> None:
    """A grey picture of any format has three equal channels."""
    grey = np.asarray(as_pillow(upright_pixels).convert("L"))
    pixels = decode_image(saved(Pillow.fromarray(grey), form), LIMITS).pixels
    assert difference(pixels, np.dstack([grey] * 3)) < 3


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(upright_pixels: Pixels, form: str) -> None:
    """Palette pictures come out in their palette's colours."""
    palette = as_pillow(upright_pixels).quantize(64)
    expected = np.asarray(palette.convert("RGB"))[..., ::-1]
    assert difference(decode_image(saved(palette, form), LIMITS).pixels, expected) == 0


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits(extension: str, channels: int) -> None:
    """Sixteen-bit channels keep their high byte instead of overflowing to white."""
    wide = np.linspace(0, 65535, 64 * 48 * channels).reshape(48, 64, channels).astype(np.uint16)
    ok, data = cv2.imencode(extension, wide)
    assert ok
    pixels = decode_image(data.tobytes(), LIMITS).pixels
    assert difference(pixels, np.broadcast_to((wide >> 8).astype(np.uint8), (48, 64, 3))) < 1


def test_interlaced_and_bilevel_png(upright_pixels: Pixels) -> None:
    """An Adam7-interlaced PNG and a black and white one are read like any other."""
    bilevel = as_pillow(upright_pixels).convert("1")
    expected = np.asarray(bilevel.convert("RGB"))
    assert difference(decode_image(saved(bilevel, "PNG"), LIMITS).pixels, expected) == 0
    # libpng of OpenCV cannot write Adam7, so the seven passes are laid out here.
    assert difference(decode_image(_adam7(upright_pixels), LIMITS).pixels, upright_pixels) == 0


def _adam7(pixels: Pixels) -> bytes:
    """An interlaced PNG by the pass table of the PNG specification, section 8.2."""
    import struct  # noqa: PLC0415 – only this writer needs them
    import zlib  # noqa: PLC0415 – likewise

    from .conftest import png_chunk  # noqa: PLC0415 – likewise

    rows = b""
    for y, x, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        rows += b"".join(b"\0" + row[..., ::-1].tobytes() for row in pixels[y::down, x::across])
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def test_transparency_shows_grey(upright_pixels: Pixels) -> None:
    """Transparent parts become neutral grey, opaque parts keep their pixels, half-transparent ones blend."""
    alpha = np.full(upright_pixels.shape[:2], 255, np.uint8)
    alpha[:, :30] = 0
    alpha[:, 30:60] = 128
    rgba = np.dstack([upright_pixels[..., ::-1], alpha])
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        pixels = decode_image(saved(Pillow.fromarray(rgba), form, **options), LIMITS).pixels
        assert (pixels[:, :30] == 128).all(), form
        np.testing.assert_array_equal(pixels[:, 60:], upright_pixels[:, 60:])
        assert np.abs(pixels[:, 30:60].astype(int) - (upright_pixels[:, 30:60].astype(int) + 128) / 2).max() <= 2


def test_transparent_palette_and_colour_key(upright_pixels: Pixels) -> None:
    """Transparency by a palette entry or by a colour key counts as well."""
    palette = as_pillow(upright_pixels).quantize(16)
    index = np.asarray(palette)
    for form in ("PNG", "GIF"):
        pixels = decode_image(saved(palette, form, transparency=3), LIMITS).pixels
        assert (pixels[index == 3] == 128).all()
    keyed = np.full((16, 16, 3), (10, 20, 30), np.uint8)
    keyed[:8] = (200, 100, 50)
    pixels = decode_image(saved(Pillow.fromarray(keyed), "PNG", transparency=(10, 20, 30)), LIMITS).pixels
    assert (pixels[8:] == 128).all()
    assert (pixels[:8] == (50, 100, 200)).all()


def test_opaque_rgba_photo(shared: Path) -> None:
    """A real 32-bit PNG decodes to its visible pixels."""
    data = (shared / "data/photos/scenes/rgba_32bit.png").read_bytes()
    image = decode_image(data, LIMITS)
    assert (image.width, image.height) == (626, 1200)
    rgba = np.asarray(Pillow.open(io.BytesIO(data)))
    opaque = rgba[..., 3] == 255
    np.testing.assert_array_equal(image.pixels[opaque], rgba[opaque][:, 2::-1])


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_first_of_several_frames(upright_pixels: Pixels, form: str, options: dict[str, object]) -> None:
    """Of an animation or a document with pages the first is taken."""
    first = as_pillow(upright_pixels).quantize(64).convert("RGB")
    others = [Pillow.new("RGB", first.size, (0, 255, 0)), Pillow.new("RGB", first.size, (255, 0, 0))]
    data = saved(first, form, save_all=True, append_images=others, **options)
    assert difference(decode_image(data, LIMITS).pixels, np.asarray(first)[..., ::-1]) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 98, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_every_orientation(upright_pixels: Pixels, orientation: int, form: str, options: dict[str, object]) -> None:
    """All eight EXIF orientations of every format that has them give the upright picture."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(STORED_AS[orientation](upright_pixels), form, exif=exif, **options), LIMITS)
    assert difference(image.pixels, upright_pixels) < 2
    assert (image.source_width, image.source_height) == (96, 64)
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("order", ["little", "big"])
def test_orientation_in_either_byte_order(upright_pixels: Pixels, order: str) -> None:
    """EXIF of either byte order is read, also behind another APP1 segment and fill bytes."""
    number = {"little": b"\x06\x00", "big": b"\x00\x06"}[order]
    start = {"little": b"II*\0\x08\0\0\0\x01\0", "big": b"MM\0*\0\0\0\x08\0\x01"}[order]
    entry = {"little": b"\x12\x01\x03\0\x01\0\0\0", "big": b"\x01\x12\0\x03\0\0\0\x01"}[order]
    block = b"Exif\0\0" + start + entry + number + b"\0\0" + b"\0\0\0\0"
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    other = b"\xff\xe1\x00\x08http:/"
    data = encoded(STORED_AS[6](upright_pixels), "JPEG", quality=98)
    image = decode_image(data[:2] + other + b"\xff" + segment + data[2:], LIMITS)
    assert difference(image.pixels, upright_pixels) < 3


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",
    ],
)
def test_broken_exif_is_no_reason_to_refuse(upright_pixels: Pixels, exif: bytes) -> None:
    """Unreadable EXIF or an orientation of 99 leaves the picture as it is stored."""
    data = encoded(upright_pixels, "JPEG", quality=98)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert difference(decode_image(data[:2] + segment + data[2:], LIMITS).pixels, upright_pixels) < 3


def test_sideways_phone_photos(shared: Path) -> None:
    """Real photos of a phone held upright, stored sideways, come out as Pillow turns them."""
    for photo in sorted((shared / "data/photos/liveness").glob("*.jpg")):
        image = decode_image(photo.read_bytes(), LIMITS)
        assert (image.width, image.height) == (480, 640)
        expected = np.asarray(ImageOps.exif_transpose(Pillow.open(photo)))[..., ::-1]
        assert difference(image.pixels, expected) < 1


@pytest.mark.parametrize(
    ("long_side", "max_size_px", "divisor"),
    [
        (1280, None, 1),
        (1280, 0, 1),
        (1280, 640, 1),
        (1280, 200, 2),
        (1280, 213, 2),
        (1280, 214, 1),
        (1280, 106, 4),
        (1280, 53, 8),
        (1280, 10, 8),
    ],
)
def test_scaled_decode(shared: Path, long_side: int, max_size_px: int | None, divisor: int) -> None:
    """The smallest scale is taken that leaves the stated headroom, and the full size is kept beside it."""
    data = (shared / "data/photos/scenes/friends_six_faces.jpg").read_bytes()
    image = decode_image(data, LIMITS, max_size_px)
    assert (image.source_width, image.source_height) == (long_side, 886)
    assert (image.width, image.height) == (-(-1280 // divisor), -(-886 // divisor))
    assert not max_size_px or divisor == 1 or image.width >= HEADROOM * max_size_px
    width, height = 1280 // divisor, 886 // divisor
    whole = decode_image(data, LIMITS).pixels[: height * divisor, : width * divisor]
    expected = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    assert difference(image.pixels[:height, :width], expected.astype(np.uint8)) < 1


def test_scaled_decode_of_a_turned_photo(shared: Path) -> None:
    """Scale and orientation go together: the source size is that of the upright picture."""
    image = decode_image((shared / "data/photos/liveness/image_T1.jpg").read_bytes(), LIMITS, 100)
    assert (image.width, image.height, image.source_width, image.source_height) == (240, 320, 480, 640)


def test_same_picture_from_jpeg_and_png(shared: Path) -> None:
    """The PNG of a decoded JPEG is the same picture to the bit."""
    pixels = decode_image((shared / "data/photos/scenes/two_people.jpg").read_bytes(), LIMITS).pixels
    np.testing.assert_array_equal(decode_image(encoded(pixels, "PNG"), LIMITS).pixels, pixels)


def test_sloppy_but_complete_jpegs(upright_pixels: Pixels) -> None:
    """Files with wrong revision numbers, scan parameters or stray bytes between markers are complete, so they are read."""
    data = encoded(upright_pixels, "JPEG", quality=95)
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    sloppy = {
        "revision": data[:11] + b"\x02" + data[12:],
        "scan parameters": data[: end - 3] + b"\0\0\0" + data[end:],
        "stray bytes": data[:20] + b"\x11\x22" + data[20:],
        "trailing bytes": data + b"trailing" * 100,
    }
    for what, variant in sloppy.items():
        assert difference(decode_image(variant, LIMITS).pixels, upright_pixels) < 3, what
        with pytest.raises(InvalidImage, match="truncated"):
            decode_image(variant[: len(data) - 30], LIMITS)
    with pytest.raises(ValueError, match="Invalid SOS"):  # what the strict decoder alone would say
        simplejpeg.decode_jpeg(sloppy["scan parameters"])

"""Bad pictures get one clear sentence, quickly, and nothing is decoded for nothing."""

from __future__ import annotations

import contextlib
import io
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from face_server.domain.image import Image, Pixels
from face_server.errors import InputTooLarge, InvalidImage
from face_server.video.images import ImageLimits, decode_image

from .conftest import encoded, huge_headers

LIMITS = ImageLimits()
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "empty"),
        (b"<html><body>secret-token</body>", "HTML"),
        (b"\n <!DOCTYPE html><p>secret-token", "HTML"),
        (b"<svg xmlns='secret-token'>", "SVG"),
        (b"%PDF-1.7 secret-token", "PDF"),
        (b'{"detail": "secret-token"}', "text"),
        (b"secret-token", "text"),
        (b"/9j/4AAQSkZJRgABAQAAAQABAAD", "base64"),
        (b"data:image/png;base64,iVBORw0KGgo", "data: URL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "MP4"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"PK\x03\x04secret-token", "ZIP"),
        (b"\x00\x01\x02\x03secret-token", "unknown kind"),
        (b"\xff", "unknown kind"),
    ],
)
def test_what_is_no_picture(data: bytes, named: str) -> None:
    """The message names what was found and what is accepted, and repeats nothing of the content."""
    with pytest.raises(InvalidImage) as refusal:
        decode_image(data, LIMITS)
    assert named in refusal.value.message
    assert "secret-token" not in refusal.value.message
    assert not data or "JPEG, PNG, WebP, BMP, TIFF or GIF" in refusal.value.message


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("side", [50_000, 8_000])
def test_huge_header(form: str, side: int) -> None:
    """A header of 50,000×50,000 (and of just too many) pixels is refused by the header, without memory for the pixels."""
    data = huge_headers(side)[form]
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(InputTooLarge, match=rf"{side}×{side} = {side * side} pixels, at most 50000000 are allowed"):
        decode_image(data, LIMITS)
    took_s, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 1
    assert peak < 2_000_000


@pytest.mark.parametrize("form", FORMATS)
def test_pixel_limit_is_inclusive(form: str) -> None:
    """As many pixels as the limit pass, one row more does not."""
    limits = ImageLimits(max_pixels=20 * 30)
    assert decode_image(encoded(np.zeros((30, 20, 3), np.uint8), form), limits).height == 30
    with pytest.raises(InputTooLarge):
        decode_image(encoded(np.zeros((31, 20, 3), np.uint8), form), limits)


def test_too_many_bytes() -> None:
    """More bytes than allowed are refused with both numbers."""
    with pytest.raises(InputTooLarge, match="1001 bytes, at most 1000"):
        decode_image(b"\xff\xd8\xff" + bytes(998), ImageLimits(max_bytes=1000))


@pytest.mark.parametrize("form", FORMATS)
def test_tiny_picture(form: str) -> None:
    """A tracking pixel is told apart from a picture without faces."""
    with pytest.raises(InvalidImage, match="1×1 pixels, each side needs at least 8"):
        decode_image(encoded(np.zeros((1, 1, 3), np.uint8), form), LIMITS)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated(shared: Path, form: str, share: float) -> None:
    """A truncated file of any format is refused, never shown with grey where the rest should be."""
    pixels = cv2.imread(str(shared / "data/photos/scenes/kit_with_rose.jpg"))
    assert pixels is not None
    data = encoded(pixels.astype(np.uint8), form)
    with pytest.raises(InvalidImage, match="truncated"):
        decode_image(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("missing", [2, 3, 20, 1000])
def test_truncated_jpeg_tails(shared: Path, options: dict[str, object], missing: int) -> None:
    """Even the last bytes of a JPEG count, however it is coded, and whether it is decoded at full size or not."""
    pixels = cv2.imread(str(shared / "data/photos/scenes/kit_with_rose.jpg"))
    assert pixels is not None
    data = encoded(pixels.astype(np.uint8), "JPEG", quality=90, **options)
    for max_size_px in (None, 50):
        with pytest.raises(InvalidImage, match="truncated"):
            decode_image(data[:-missing], LIMITS, max_size_px)


def test_damaged_jpeg(upright_pixels: Pixels) -> None:
    """A piece missing in the middle of the coded data is noticed, at full size and scaled."""
    data = encoded(upright_pixels, "JPEG", quality=95)
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    for max_size_px in (None, 10):
        with pytest.raises(InvalidImage, match="damaged"):
            decode_image(data[: middle - 100] + data[middle + 100 :], LIMITS, max_size_px)


def test_endless_scans(upright_pixels: Pixels) -> None:
    """A JPEG of thousands of scans, each cheap to store and dear to decode, is refused before decoding."""
    data = encoded(upright_pixels, "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    with pytest.raises(InvalidImage, match="more than 100 scans"):
        decode_image(data[:-2] + data[scan : scan + 10] * 1000 + data[-2:], LIMITS)


def test_thirty_two_bit_channels() -> None:
    """Floating-point and 32-bit integer pictures have no agreed white, so they are refused."""
    for mode in ("F", "I"):
        buffer = io.BytesIO()
        Pillow.new(mode, (16, 16)).save(buffer, "TIFF")
        with pytest.raises(InvalidImage, match="32 bits a channel"):
            decode_image(buffer.getvalue(), LIMITS)


def test_wrong_suffix_is_no_matter(upright_pixels: Pixels) -> None:
    """A decoder is chosen by signature alone: a GIF signature before PNG data is a damaged GIF."""
    with pytest.raises(InvalidImage, match="GIF picture is truncated or damaged"):
        decode_image(b"GIF89a" + encoded(upright_pixels, "PNG"), LIMITS)


@pytest.mark.parametrize("bad", [{"max_pixels": 0}, {"max_pixels": 10**9}, {"max_bytes": 0}, {"min_side_px": 0}])
def test_limits_that_cannot_work(bad: dict[str, int]) -> None:
    """Limits that would refuse everything, or that the decoder does not honour, are refused at construction."""
    with pytest.raises(ValueError, match="ImageLimits need"):
        ImageLimits(**bad)


SMALL = ImageLimits(max_pixels=1_000_000)
SIGNATURES = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"MM\0*", b"GIF89a"]


def _seeds() -> list[bytes]:
    y, x = np.mgrid[0:40, 0:56]
    pixels = np.dstack([x * 4, y * 6, x + y]).astype(np.uint8)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    files = [encoded(pixels, form, exif=exif) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    files += [encoded(pixels, "JPEG", progressive=True), encoded(pixels, "BMP"), encoded(pixels, "GIF")]
    files += [encoded(pixels, "WEBP", lossless=True), encoded(pixels, "TIFF", compression="tiff_lzw")]
    animation = io.BytesIO()
    Pillow.fromarray(pixels).save(animation, "GIF", save_all=True, append_images=[Pillow.fromarray(pixels[::-1].copy())])
    return [*files, animation.getvalue()]


SEEDS = _seeds()

fuzz = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decode_or_refuse(data: bytes) -> None:
    """Decoding ends soon with an image within the limits or with a documented error."""
    started = time.perf_counter()
    with contextlib.suppress(InvalidImage, InputTooLarge):
        image = decode_image(data, SMALL, max_size_px=10)
        assert isinstance(image, Image)
        assert image.source_width * image.source_height <= SMALL.max_pixels
    assert time.perf_counter() - started < 5


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata; in service that is no error
@fuzz
@given(st.sampled_from(SIGNATURES), st.binary(max_size=600))
def test_random_bytes(signature: bytes, rest: bytes) -> None:
    """Random bytes behind any signature never raise anything undocumented."""
    decode_or_refuse(signature + rest)


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(st.sampled_from(SEEDS), st.floats(0, 1))
def test_random_truncation(seed: bytes, share: float) -> None:
    """Real files cut anywhere never raise anything undocumented."""
    decode_or_refuse(seed[: int(len(seed) * share)])


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12), st.booleans())
def test_random_mutation(seed: bytes, changes: list[tuple[int, int]], near_start: bool) -> None:
    """Real files with bytes changed, in the header or anywhere, never raise anything undocumented."""
    data = bytearray(seed)
    for position, value in changes:
        data[position % (min(len(data), 120) if near_start else len(data))] = value
    decode_or_refuse(bytes(data))

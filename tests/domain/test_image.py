"""What an Image guarantees about its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from face_server.domain.image import Image, check_pixels


def test_an_image_of_pixels_is_its_own_source() -> None:
    """Pixels that were decoded at full size have a source scale of exactly one."""
    image = Image.from_pixels(np.zeros((20, 30, 3), np.uint8))
    assert (image.width, image.height) == (30, 20)
    assert (image.source_width, image.source_height) == (30, 20)
    assert image.source_scale == (1.0, 1.0)


def test_source_scale_is_source_pixels_per_decoded_pixel() -> None:
    """A quarter-size decode reports four source pixels per pixel, per axis."""
    image = Image(np.zeros((25, 50, 3), np.uint8), source_width=200, source_height=99)
    assert image.source_scale == (4.0, 99 / 25)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["float", "grey", "alpha", "batch", "empty"],
)
def test_anything_but_bgr_bytes_is_refused_with_what_was_given(pixels: np.ndarray) -> None:
    """The message names the field, what is expected, and the dtype and shape that came."""
    with pytest.raises(ValueError, match=r"the thing must be H×W×3 uint8 BGR, got (float32|uint8) \("):
        check_pixels(pixels, "the thing")
    with pytest.raises(ValueError, match="pixels of an Image must be"):
        Image.from_pixels(pixels)


@pytest.mark.parametrize(("width", "height"), [(29, 20), (30, 19)])
def test_a_source_smaller_than_its_pixels_is_refused(width: int, height: int) -> None:
    """Pictures are only ever scaled down on decoding, so a smaller source is a mistake."""
    with pytest.raises(ValueError, match="cannot be smaller"):
        Image(np.zeros((20, 30, 3), np.uint8), width, height)

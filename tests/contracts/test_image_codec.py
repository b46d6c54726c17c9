"""What every ``ImageCodec`` does."""

from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from face_server.domain.image import Image, Pixels
from face_server.domain.ports import ImageCodec
from face_server.errors import InputTooLarge, InvalidImage, InvalidInput
from face_server.video.images import Codec, ImageLimits
from face_server.workers import Workers


@pytest.fixture(params=["Codec"])
def codec(request: pytest.FixtureRequest, workers: Workers) -> ImageCodec:
    """Each implementation, with limits of 1 MB and 4 million pixels."""
    implementations = {"Codec": Codec}
    made: ImageCodec = implementations[request.param](workers, ImageLimits(max_bytes=1_000_000, max_pixels=4_000_000))
    return made


@pytest.fixture
def pixels() -> Pixels:
    """A smooth 800×600 picture."""
    y, x = np.mgrid[0:600, 0:800]
    return np.dstack([x * 255 // 800, y * 255 // 600, (x + y) * 255 // 1400]).astype(np.uint8)


class TestImageCodec:
    """The contract of the port."""

    async def test_round_trip(self, codec: ImageCodec, pixels: Pixels) -> None:
        """What is encoded comes back alike, upright and at its size."""
        image = await codec.decode(await codec.encode_jpeg(pixels))
        assert isinstance(image, Image)
        assert (image.width, image.height, image.source_width, image.source_height) == (800, 600, 800, 600)
        assert np.abs(image.pixels.astype(int) - pixels).mean() < 2

    async def test_quality_counts(self, codec: ImageCodec, pixels: Pixels) -> None:
        """A higher quality costs more bytes; one outside 1..100 is refused."""
        assert len(await codec.encode_jpeg(pixels, quality=95)) > len(await codec.encode_jpeg(pixels, quality=30))
        for quality in (0, 101):
            with pytest.raises(InvalidInput, match="quality"):
                await codec.encode_jpeg(pixels, quality=quality)

    async def test_encodes_views(self, codec: ImageCodec, pixels: Pixels) -> None:
        """Pixels need not be contiguous: a cut-out encodes as its copy does."""
        view = pixels[100:300, 200:400]
        assert await codec.encode_jpeg(view) == await codec.encode_jpeg(view.copy())

    async def test_permitted_scale(self, codec: ImageCodec, pixels: Pixels) -> None:
        """A scaled decode keeps at least the permitted size and tells the full one."""
        image = await codec.decode(await codec.encode_jpeg(pixels), max_size_px=100)
        assert max(image.width, image.height) >= 100
        assert (image.source_width, image.source_height) == (800, 600)

    async def test_refusals(self, codec: ImageCodec) -> None:
        """Empty data, text and truncated files are InvalidImage; too many bytes or pixels InputTooLarge."""
        for data in (b"", b"hello", b"\xff\xd8\xff\xe0"):
            with pytest.raises(InvalidImage):
                await codec.decode(data)
        with pytest.raises(InputTooLarge):
            await codec.decode(b"\xff\xd8\xff" + bytes(1_000_000))
        large = io.BytesIO()
        Pillow.new("L", (2001, 2000)).save(large, "PNG")
        with pytest.raises(InputTooLarge):
            await codec.decode(large.getvalue())

    @pytest.mark.parametrize("size", [10, 500_000])
    async def test_base64(self, codec: ImageCodec, size: int) -> None:
        """Short and long base64 text becomes its bytes, with a data: prefix or without."""
        raw = bytes(range(256)) * (size // 256 + 1)
        text = base64.b64encode(raw)
        assert await codec.decode_base64(text) == raw
        assert await codec.decode_base64("data:image/png;base64," + text.decode()) == raw

    async def test_base64_refusals(self, codec: ImageCodec) -> None:
        """Text that is no base64 is InvalidImage, too much of it InputTooLarge."""
        with pytest.raises(InvalidImage):
            await codec.decode_base64("not base64!")
        with pytest.raises(InputTooLarge):
            await codec.decode_base64(b"AAAA" * 400_000)

    async def test_many_at_once(self, codec: ImageCodec, pixels: Pixels) -> None:
        """Concurrent calls do not mix up their pictures."""
        files = [await codec.encode_jpeg(np.full((64, 64, 3), level, np.uint8)) for level in range(0, 250, 10)]
        images = await asyncio.gather(*(codec.decode(file) for file in files))
        assert [round(float(image.pixels.mean()) / 10) * 10 for image in images] == list(range(0, 250, 10))

"""How long pictures take to decode, by decoder, side by side: ``python benchmarks/decode.py``.

Medians of interleaved rounds on one thread, so that a busy machine slows all alike. The large
picture is a photo enlarged to 12 megapixels with camera-like noise.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]  # ships stubs without a py.typed marker
from PIL import Image as Pillow

from face_server.domain.image import Pixels
from face_server.video.images import ImageLimits, decode_image

PHOTO = Path(__file__).resolve().parents[2] / "shared/data/photos/scenes/friends_six_faces.jpg"
LIMITS = ImageLimits()


def encoded(pixels: Pixels, form: str, **options: object) -> bytes:
    """BGR pixels as a file."""
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(buffer, form, **options)
    return buffer.getvalue()


def opencv(data: bytes) -> object:
    """Decode as OpenCV does by default."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def enlarged(pixels: Pixels, width: int, height: int) -> Pixels:
    """The picture at another size, with noise so that its coefficients are those of a photo."""
    large = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = np.asarray(np.random.default_rng(0).normal(0, 6, large.shape), np.int16)
    return np.asarray(np.clip(large + noise, 0, 255), np.uint8)


def medians_ms(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each call in ms over ``rounds`` interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def table(title: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Measure and print; ratios are to the first row."""
    medians = medians_ms(calls, rounds)
    first = next(iter(medians.values()))
    print(f"\n{title}\n| decoder | ms | × first |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / first:.2f} |")


def main() -> None:
    """Print one table for the photo, one for a 12-megapixel JPEG, one for the other formats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    data = arguments.photo.read_bytes()
    pixels = decode_image(data, LIMITS).pixels
    height, width = pixels.shape[:2]

    table(
        f"JPEG {width}×{height}",
        {
            "cv2.imdecode": lambda: opencv(data),
            "simplejpeg": lambda: simplejpeg.decode_jpeg(data, "BGR"),
            "decode_image": lambda: decode_image(data, LIMITS),
            "Pillow": lambda: np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")),
        },
        arguments.rounds,
    )
    large = encoded(enlarged(pixels, 4032, 3024), "JPEG", quality=90)
    scaled = {f"decode_image, max_size_px={size}": partial(decode_image, large, LIMITS, size) for size in (640, 320, 160)}
    table(
        "JPEG 4032×3024",
        {"cv2.imdecode": lambda: opencv(large), "decode_image": lambda: decode_image(large, LIMITS), **scaled},
        arguments.rounds,
    )
    for form in ("PNG", "WEBP", "BMP", "TIFF", "GIF"):
        other = encoded(pixels, form)
        calls: dict[str, Callable[[], object]] = {
            "cv2.imdecode": partial(opencv, other),
            "decode_image": partial(decode_image, other, LIMITS),
        }
        table(f"{form} {width}×{height}", calls, arguments.rounds)


if __name__ == "__main__":
    main()

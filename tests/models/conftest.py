"""Networks on a real runtime, and pictures to show them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from face_server.backends.onnx import OnnxBackend
from face_server.domain.image import Image, Pixels
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.embedder import EmbedderOptions, NetworkEmbedder
from face_server.models.weights import WeightsStore
from face_server.workers import Workers


@pytest.fixture
async def make_detector(all_weights: WeightsStore, workers: Workers) -> AsyncIterator[Callable[..., NetworkDetector]]:
    """Builds the detector of a name on ONNX Runtime."""
    opened = []

    def build(name: str, options: DetectorOptions | None = None) -> NetworkDetector:
        opened.append(OnnxBackend([all_weights.network(name)], workers))
        return NetworkDetector(all_weights.entry(name), opened[-1], workers, options or DetectorOptions())

    yield build
    for backend in opened:
        await backend.close()


@pytest.fixture
async def make_embedder(all_weights: WeightsStore, workers: Workers) -> AsyncIterator[Callable[..., NetworkEmbedder]]:
    """Builds the embedder of a name on ONNX Runtime."""
    opened = []

    def build(name: str, options: EmbedderOptions | None = None) -> NetworkEmbedder:
        network = all_weights.network(name)
        opened.append(OnnxBackend([network], workers))
        return NetworkEmbedder(all_weights.entry(name), network, opened[-1], options or EmbedderOptions())

    yield build
    for backend in opened:
        await backend.close()


@pytest.fixture(scope="session")
def six_faces(shared: Path) -> Pixels:
    """A scene of 1280×886 pixels with six people looking at the camera."""
    return np.asarray(cv2.imread(str(shared / "data/photos/scenes/friends_six_faces.jpg")), np.uint8)


@pytest.fixture(scope="session")
def six_faces_image(six_faces: Pixels) -> Image:
    """``six_faces`` as an image."""
    return Image.from_pixels(six_faces)

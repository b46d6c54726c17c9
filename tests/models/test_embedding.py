"""Embeddings, against the published graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from face_server.backends.scripted import ScriptedBackend
from face_server.domain.alignment import ARCFACE_TEMPLATE, aligned_crop
from face_server.domain.image import Image, Pixels
from face_server.domain.network import Network, TensorSpec
from face_server.errors import InvalidInput, Unavailable, WeightsError
from face_server.models.catalog import CATALOG
from face_server.models.detector import NetworkDetector
from face_server.models.embedder import EmbedderOptions, NetworkEmbedder, model_id
from face_server.models.weights import WeightsStore

EMBEDDERS = [name for name, entry in CATALOG.items() if entry.task == "embedder"]


@pytest.fixture
async def crops(make_detector: Callable[..., NetworkDetector], six_faces: Pixels) -> Pixels:
    """Aligned crops of six different people."""
    faces = (await make_detector("yunet").detect([Image.from_pixels(six_faces)], min_score=0.6, max_size_px=640))[0]
    return np.stack([aligned_crop(six_faces, face.landmarks) for face in faces])


def test_the_template_is_the_one_the_networks_were_trained_on() -> None:
    """Five landmarks of a 112×112 crop as published with ArcFace; another template moves every embedding."""
    published = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    np.testing.assert_array_equal(ARCFACE_TEMPLATE, np.array(published, np.float32))


@pytest.mark.parametrize(("name", "scale", "mean"), [("sface", 1.0, 0.0), ("arcface_mobilefacenet", 1 / 127.5, 127.5)])
async def test_features_are_those_of_the_published_graph(
    make_embedder: Callable[..., NetworkEmbedder], all_weights: WeightsStore, crops: Pixels, name: str, scale: float, mean: float
) -> None:
    """RGB pixels scaled as published, one face at a time into the published file, give the same features."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = all_weights.network(name).path.with_name("weights.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    picture, *unread = session.get_inputs()
    feed = {value.name: np.zeros(value.shape, np.float32) for value in unread}
    blobs = [cv2.dnn.blobFromImage(crop, scale, (112, 112), (mean, mean, mean), swapRB=True) for crop in crops]
    expected = np.concatenate([session.run(None, {picture.name: blob, **feed})[0] for blob in blobs])
    mine = await make_embedder(name).embed(crops)
    np.testing.assert_allclose(mine.vectors * mine.norms[:, None], expected, atol=1e-4)


@pytest.mark.parametrize("name", EMBEDDERS)
async def test_channels_in_the_wrong_order_are_noticed(make_embedder: Callable[..., NetworkEmbedder], crops: Pixels, name: str) -> None:
    """Swapped channels give clearly different embeddings, so the agreement above pins the order."""
    embedder = make_embedder(name)
    right, wrong = (await embedder.embed(crops)).vectors, (await embedder.embed(crops[..., ::-1])).vectors
    assert (right * wrong).sum(axis=1).mean() < 0.97


@pytest.mark.parametrize("name", EMBEDDERS)
async def test_different_people_are_told_apart(make_embedder: Callable[..., NetworkEmbedder], crops: Pixels, name: str) -> None:
    """Six people: each is far more like a brighter copy of the same crop than like anybody else."""
    embedder = make_embedder(name)
    vectors = (await embedder.embed(crops)).vectors
    brighter = (await embedder.embed(np.clip(crops.astype(np.int16) + 25, 0, 255).astype(np.uint8))).vectors
    others = (vectors @ vectors.T)[~np.eye(6, dtype=bool)]
    assert others.max() < 0.4
    assert (vectors * brighter).sum(axis=1).min() > 0.8


@pytest.mark.parametrize("name", EMBEDDERS)
async def test_mirroring_averages_both_images(make_embedder: Callable[..., NetworkEmbedder], crops: Pixels, name: str) -> None:
    """The result is the direction of the mean of both features, and the same for the mirror image."""
    embedder = make_embedder(name)
    mirrored = np.ascontiguousarray(crops[:, :, ::-1])
    one, two, both, again = [
        await embedder.embed(pictures, mirror=mirror)
        for pictures, mirror in ((crops, False), (mirrored, False), (crops, True), (mirrored, True))
    ]
    mean = (one.vectors * one.norms[:, None] + two.vectors * two.norms[:, None]) / 2
    np.testing.assert_allclose(both.vectors * both.norms[:, None], mean, atol=1e-4)
    np.testing.assert_allclose(both.vectors, again.vectors, atol=1e-5)


@pytest.mark.parametrize("options", [EmbedderOptions(), EmbedderOptions(batch=4), EmbedderOptions(batch=64, max_concurrent=1)])
async def test_batching_changes_nothing(make_embedder: Callable[..., NetworkEmbedder], crops: Pixels, options: EmbedderOptions) -> None:
    """Each crop has the same embedding, in its place, whatever shares its call."""
    expected = (await make_embedder("arcface_mobilefacenet").embed(crops)).vectors
    actual = (await make_embedder("arcface_mobilefacenet", options).embed(crops)).vectors
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def scripted(features: np.ndarray) -> tuple[NetworkEmbedder, ScriptedBackend]:
    """An SFace whose network answers as told."""
    backend = ScriptedBackend({"sface": {"features": features}})
    outputs = (TensorSpec("features", "float32", (None, features.shape[1])),)
    network = Network("sface", Path("unused.onnx"), (TensorSpec("crops", "uint8", (None, 112, 112, 3)),), outputs)
    return NetworkEmbedder(CATALOG["sface"], network, backend), backend


async def test_crops_of_another_shape_are_refused() -> None:
    """The message states what was expected."""
    embedder, _ = scripted(np.ones((1, 4), np.float32))
    for wrong in (np.zeros((2, 96, 96, 3), np.uint8), np.zeros((112, 112, 3), np.uint8), np.zeros((1, 112, 112, 3), np.float32)):
        with pytest.raises(ValueError, match=r"crops must be N×112×112×3 uint8 BGR, got"):
            await embedder.embed(wrong)


async def test_features_that_are_not_finite_are_an_error() -> None:
    """A network that answers NaN never yields an embedding."""
    embedder, _ = scripted(np.array([[1.0, np.nan, 0.0, 0.0]], np.float32))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        await embedder.embed(np.zeros((1, 112, 112, 3), np.uint8))


async def test_an_error_of_the_backend_arrives_as_it_is() -> None:
    """One failing call among many raises the backend's own error and leaves nothing running."""
    embedder, backend = scripted(np.ones((1, 4), np.float32))
    backend.fail("sface", Unavailable("the runtime is away"))
    with pytest.raises(Unavailable, match="the runtime is away"):
        await embedder.embed(np.zeros((9, 112, 112, 3), np.uint8))
    assert backend.running == 0


def test_a_model_id_names_weights_and_dimension(all_weights: WeightsStore) -> None:
    """Name, digest of the published file, preprocessing and dimension; without a dimension there is none."""
    network = all_weights.network("sface")
    assert str(model_id(CATALOG["sface"], network)) == "sface@fb143eea0783/p1/128d"
    free = Network("sface", network.path, network.inputs, (TensorSpec("features", "float32", (None, None)),))
    with pytest.raises(WeightsError, match="does not declare how many values"):
        model_id(CATALOG["sface"], free)

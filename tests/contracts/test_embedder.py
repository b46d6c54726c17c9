"""What every Embedder promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from face_server.backends.onnx import OnnxBackend
from face_server.domain.embedding import ModelId
from face_server.domain.image import Pixels
from face_server.domain.ports import Embedder
from face_server.models.catalog import CATALOG
from face_server.models.embedder import EmbedderOptions, NetworkEmbedder
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

OPTIONS = {"cpu": EmbedderOptions(), "batched": EmbedderOptions(batch=4)}
CASES = [(name, how) for name, entry in CATALOG.items() if entry.task == "embedder" for how in OPTIONS]


@pytest.fixture(params=CASES, ids="-".join)
async def embedder(request: pytest.FixtureRequest, all_weights: WeightsStore, workers: Workers) -> AsyncIterator[Embedder]:
    """Every recognition network of the catalogue, and every way of running one."""
    name, how = request.param
    network = all_weights.network(name)
    backend = OnnxBackend([network], workers)
    yield NetworkEmbedder(all_weights.entry(name), network, backend, OPTIONS[how])
    await backend.close()


@pytest.fixture(scope="module")
def crops(shared: Path) -> Pixels:
    """The middle of seven LFW pictures, roughly aligned by their making: crops of different people."""
    people = sorted((shared / "data/lfw/images").iterdir())[:7]
    pictures = [cv2.imread(str(next(person.glob("*.jpg")))) for person in people]
    return np.stack([np.asarray(cv2.resize(picture[60:190, 60:190], (112, 112)), np.uint8) for picture in pictures])


class TestEmbedder:
    async def test_every_embedding_carries_its_model(self, embedder: Embedder, crops: Pixels) -> None:
        """The id names network and weights, survives being written down, and fits the vectors."""
        embeddings = await embedder.embed(crops[:2])
        assert embeddings.model == embedder.model == ModelId.parse(str(embedder.model))
        assert CATALOG[embedder.model.name].sha256.startswith(embedder.model.digest)
        assert embeddings.vectors.shape == (2, embedder.model.dimension)

    async def test_vectors_have_unit_length(self, embedder: Embedder, crops: Pixels) -> None:
        """float32, length 1, with the length they had before."""
        embeddings = await embedder.embed(crops)
        assert embeddings.vectors.dtype == embeddings.norms.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)
        assert (embeddings.norms > 1).all()

    async def test_no_crops_give_no_embeddings(self, embedder: Embedder, crops: Pixels) -> None:
        """N may be 0, mirrored or not."""
        for mirror in (False, True):
            embeddings = await embedder.embed(crops[:0], mirror=mirror)
            assert embeddings.vectors.shape == (0, embedder.model.dimension)
            assert len(embeddings) == 0

    async def test_order_is_kept(self, embedder: Embedder, crops: Pixels) -> None:
        """Each crop has the embedding it has alone, wherever it stands."""
        together = (await embedder.embed(crops)).vectors
        for position in (0, 3, 6):
            alone = (await embedder.embed(crops[position : position + 1])).vectors[0]
            np.testing.assert_allclose(together[position], alone, atol=1e-5)

    async def test_the_same_crop_gives_the_same_embedding(self, embedder: Embedder, crops: Pixels) -> None:
        """Also from memory that is not contiguous or must not be written."""
        view = np.repeat(crops, 2, axis=2)[:, :, ::2]
        view.flags.writeable = False
        expected = (await embedder.embed(crops)).vectors
        np.testing.assert_array_equal((await embedder.embed(view)).vectors, expected)

    async def test_mirroring_is_symmetric_and_stays_close(self, embedder: Embedder, crops: Pixels) -> None:
        """A crop and its mirror image give one embedding, close to the plain one but not the same."""
        plain = (await embedder.embed(crops)).vectors
        one = (await embedder.embed(crops, mirror=True)).vectors
        two = (await embedder.embed(crops[:, :, ::-1], mirror=True)).vectors
        np.testing.assert_allclose(one, two, atol=1e-5)
        similarity = (plain * one).sum(axis=1)
        assert similarity.min() > 0.9
        assert similarity.max() < 0.9999

    async def test_wrong_crops_are_refused(self, embedder: Embedder, crops: Pixels) -> None:
        """Another shape or dtype is a mistake of the caller."""
        for wrong in (crops[0], crops[:, :100], crops.astype(np.float32), crops[..., :1]):
            with pytest.raises(ValueError, match="crops must be"):
                await embedder.embed(wrong)

    async def test_it_does_not_block_the_event_loop(self, embedder: Embedder, crops: Pixels) -> None:
        """No blocking call on the loop's thread while it works."""
        with blockbuster_ctx("face_server"):
            assert len(await embedder.embed(crops, mirror=True)) == 7

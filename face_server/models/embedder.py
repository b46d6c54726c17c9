"""Aligned crops in, embeddings out, through any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from face_server.domain.embedding import Embeddings, ModelId
from face_server.domain.image import Floats, Pixels
from face_server.domain.network import Network
from face_server.domain.ports import Backend, EmbedHere, Runner
from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry
from face_server.models.contract import Recipe
from face_server.models.families import embedder_family
from face_server.workers import map_bounded

Each = Callable[[Callable[[Pixels], Floats], Iterable[Pixels]], Iterable[Floats]]
"""``map``, or that of an executor."""

_DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """How an embedder uses its backend.

    ``batch`` crops share one call: 1 is the best on CPUs, where single calls side by side use the
    cores, 16 or more on GPUs. ``max_concurrent`` bounds the calls in flight.
    """

    batch: int = 1
    max_concurrent: int = 32

    def __post_init__(self) -> None:
        if self.batch < 1 or self.max_concurrent < 1:
            raise ValueError("batch and max_concurrent of EmbedderOptions must be at least 1")


def model_id(entry: CatalogEntry, network: Network) -> ModelId:
    """What every embedding of this network carries. Raises WeightsError if its dimension is not fixed."""
    dimension = network.outputs[0].shape[-1]
    if dimension is None:
        raise WeightsError(f"the network {entry.name} does not declare how many values its embeddings have")
    return ModelId(entry.name, entry.sha256[:_DIGEST_LENGTH], embedder_family(entry.family).preprocessing, dimension)


class NetworkEmbedder:
    """A recognition network of the catalogue behind the Embedder port."""

    def __init__(self, entry: CatalogEntry, network: Network, backend: Backend, options: EmbedderOptions = EmbedderOptions()) -> None:
        self._recipe = embedder_family(entry.family).recipe
        self._model = model_id(entry, network)
        self._name = entry.name
        self._backend = backend
        self._options = options

    @property
    def model(self) -> ModelId:
        """What every embedding it makes carries."""
        return self._model

    async def embed(self, crops: Pixels, *, mirror: bool = False) -> Embeddings:
        """Embed N×112×112×3 uint8 BGR aligned crops; N may be 0.

        ``mirror`` averages the raw features of each crop with those of its mirror image (averaging
        unit vectors instead measures the same on LFW: their lengths differ by 2 %). ``norms`` are
        the lengths of the (averaged) raw features. Raises ValueError for another shape or dtype.
        """
        chunks = _chunks(self._recipe, crops, self._options.batch, mirror=mirror)
        return _embeddings(self._model, await map_bounded(self._features, chunks, self._options.max_concurrent), mirror=mirror)

    def runner(self) -> EmbedHere | None:
        """``embed`` in the calling thread; None where the backend gathers batches or is remote."""
        run = self._backend.runner(self._name)
        return None if run is None else embed_with(self._recipe, self._model, run, batch=self._options.batch)

    async def _features(self, crops: Pixels) -> Floats:
        outputs = await self._backend.infer(self._name, {self._recipe.contract.tensor: crops})
        return np.asarray(outputs[self._recipe.outputs[0]], np.float32)


def embed_with(recipe: Recipe, model: ModelId, run: Runner, *, batch: int, each: Each = map) -> EmbedHere:
    """``Embedder.embed`` in the calling thread, with ``run`` to run the network, ``batch`` crops a call.

    ``each`` makes the calls: ``map`` one after the other, that of an executor side by side.
    """

    def features(crops: Pixels) -> Floats:
        return np.asarray(run({recipe.contract.tensor: crops})[recipe.outputs[0]], np.float32)

    def embed(crops: Pixels, mirror: bool) -> Embeddings:
        return _embeddings(model, list(each(features, _chunks(recipe, crops, batch, mirror=mirror))), mirror=mirror)

    return embed


def _chunks(recipe: Recipe, crops: Pixels, batch: int, *, mirror: bool) -> list[Pixels]:
    """The crops, and behind them their mirror images if wanted, by the call. Raises ValueError for another shape or dtype."""
    side = recipe.contract.size_px
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
        raise ValueError(f"crops must be N×{side}×{side}×3 uint8 BGR, got {crops.dtype} {crops.shape}")
    faces = np.concatenate((crops, crops[:, :, ::-1])) if mirror else np.ascontiguousarray(crops)
    return [faces[start : start + batch] for start in range(0, len(faces), batch)]


def _embeddings(model: ModelId, chunks: Sequence[Floats], *, mirror: bool) -> Embeddings:
    if not chunks:
        return Embeddings.from_features(np.empty((0, model.dimension), np.float32), model)
    features = np.concatenate(chunks)
    if mirror:
        features = (features[: len(features) // 2] + features[len(features) // 2 :]) * np.float32(0.5)
    return Embeddings.from_features(features, model)

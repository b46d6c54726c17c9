"""Face embeddings and the model that made them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats
from face_server.errors import InvalidInput, ModelMismatch


@dataclass(frozen=True, slots=True)
class ModelId:
    """What makes two embeddings comparable: network, exact weights and preprocessing.

    ``digest`` is the first 12 hex digits of the weights' sha256 as published; ``preprocessing``
    counts changes of alignment or input scaling that move embeddings.
    """

    name: str
    digest: str
    preprocessing: int
    dimension: int

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}/p{self.preprocessing}/{self.dimension}d"

    @classmethod
    def parse(cls, text: str) -> ModelId:
        """The inverse of ``str``. Raises InvalidInput with the expected form."""
        match = re.fullmatch(r"([^@]+)@([0-9a-f]+)/p(\d+)/(\d+)d", text)
        if match is None:
            raise InvalidInput(f"{text!r} is not a model id of the form name@digest/p1/128d")
        name, digest, preprocessing, dimension = match.groups()
        return cls(name, digest, int(preprocessing), int(dimension))

    def require(self, other: ModelId, what: str) -> None:
        """Raise ModelMismatch unless ``other`` is this model; ``what`` names the other side."""
        if self != other:
            raise ModelMismatch(f"{what} was made by {other}, not by {self}; embeddings of different models cannot be compared")


def unit_rows(raw: NDArray[Any]) -> tuple[Floats, Floats]:
    """Split raw N×d features into N×d unit float32 rows and their N lengths (‖raw‖)."""
    features = np.asarray(raw, np.float32)
    norms = np.linalg.norm(features, axis=1).astype(np.float32)
    return features / np.maximum(norms, np.float32(1e-12))[:, None], norms


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """N embeddings of one model: ``vectors`` N×d unit float32, ``norms`` N float32 (‖raw‖)."""

    vectors: Floats
    norms: Floats
    model: ModelId

    def __post_init__(self) -> None:
        expected = (len(self.norms), self.model.dimension)
        if self.vectors.shape != expected or self.vectors.dtype != np.float32:
            raise ValueError(f"vectors must be {expected} float32, got {self.vectors.dtype} {self.vectors.shape}")

    @classmethod
    def from_features(cls, raw: NDArray[Any], model: ModelId) -> Embeddings:
        """Normalise the raw N×d output of a network. Raises InvalidInput if it is not finite."""
        features = np.asarray(raw, np.float32).reshape(-1, model.dimension)
        if not np.isfinite(features).all():
            raise InvalidInput("an embedding holds NaN or infinity", code="invalid_embedding")
        return cls(*unit_rows(features), model)

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Embedding]:
        for vector, norm in zip(self.vectors, self.norms, strict=True):
            yield Embedding(vector, float(norm), self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One unit vector (d float32), the length it had before normalising, and its model."""

    vector: Floats
    norm: float
    model: ModelId

    def __post_init__(self) -> None:
        if self.vector.shape != (self.model.dimension,) or self.vector.dtype != np.float32:
            raise ValueError(f"an embedding of {self.model} must be ({self.model.dimension},) float32")

    @classmethod
    def from_values(cls, values: NDArray[Any] | list[float], model: ModelId) -> Embedding:
        """Check and normalise a vector that came from outside.

        Raises InvalidInput when its length is not the model's dimension, when it holds NaN or
        infinity, or when all of it is zero.
        """
        vector = np.asarray(values, np.float32).reshape(-1)
        if vector.shape != (model.dimension,):
            raise InvalidInput(f"an embedding of {model} has {model.dimension} values, got {vector.size}", code="invalid_embedding")
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0.0:
            raise InvalidInput("an embedding must be finite and not all zero", code="invalid_embedding")
        return cls(vector / np.float32(norm), norm, model)

    def similarity(self, other: Embedding) -> float:
        """Cosine in -1..1, higher is closer. Raises ModelMismatch across models."""
        self.model.require(other.model, "the other embedding")
        return float(self.vector @ other.vector)

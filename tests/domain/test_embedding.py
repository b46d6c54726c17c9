"""Embeddings carry their model and are compared only within it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from face_server.domain.embedding import Embedding, Embeddings, ModelId, unit_rows
from face_server.errors import InvalidInput, ModelMismatch

MODEL = ModelId("sface", "fb143eea0783", 1, 4)
rows = hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=st.floats(-1e3, 1e3, width=32))
vectors = hnp.arrays(np.float32, (4,), elements=st.floats(-1e3, 1e3, width=32)).filter(lambda row: np.linalg.norm(row) > 1e-3)


@given(
    st.text("abcdefgh_-.0123456789/", min_size=1),
    st.text("0123456789abcdef", min_size=1, max_size=12),
    st.integers(0, 10**6),
    st.integers(1, 10**4),
)
def test_a_model_id_survives_its_text_form(name: str, digest: str, preprocessing: int, dimension: int) -> None:
    """What is written beside an embedding reads back as the same model."""
    model = ModelId(name, digest, preprocessing, dimension)
    assert ModelId.parse(str(model)) == model


@pytest.mark.parametrize("text", ["", "sface", "sface@xyz/p1/128d", "sface@ab/1/128d", "sface@ab/p1/128", "sface@ab/p1/128d "])
def test_text_that_is_no_model_id_is_refused_with_the_expected_form(text: str) -> None:
    """The sentence shows what a model id looks like."""
    with pytest.raises(InvalidInput, match="name@digest/p1/128d"):
        ModelId.parse(text)


@pytest.mark.parametrize(
    "other",
    [ModelId("arcface", "fb143eea0783", 1, 4), ModelId("sface", "000000000000", 1, 4), ModelId("sface", "fb143eea0783", 2, 4)],
    ids=["name", "weights", "preprocessing"],
)
def test_any_difference_of_model_forbids_comparing(other: ModelId) -> None:
    """Another network, other weights or another preprocessing make a similarity meaningless."""
    first = Embedding.from_values([1, 0, 0, 0], MODEL)
    second = Embedding.from_values([1, 0, 0, 0], other)
    with pytest.raises(ModelMismatch, match="cannot be compared") as caught:
        first.similarity(second)
    assert str(MODEL) in caught.value.message
    assert str(other) in caught.value.message
    MODEL.require(MODEL, "itself")


@given(rows)
def test_unit_rows_split_features_into_direction_and_length(features: np.ndarray) -> None:
    """Direction times length is the feature again; directions have length one unless all is zero."""
    units, norms = unit_rows(features)
    assert units.dtype == norms.dtype == np.float32
    np.testing.assert_allclose(units * norms[:, None], features, rtol=1e-5, atol=1e-5)
    lengths = np.linalg.norm(units, axis=1)
    np.testing.assert_allclose(lengths[norms > 1e-3], 1, rtol=1e-5)


@given(vectors, vectors)
def test_similarity_is_symmetric_bounded_and_blind_to_length(first: np.ndarray, second: np.ndarray) -> None:
    """Cosine: 1 with itself, the same both ways, and independent of scale."""
    a, b = Embedding.from_values(first, MODEL), Embedding.from_values(second, MODEL)
    assert a.similarity(a) == pytest.approx(1, abs=1e-5)
    assert a.similarity(b) == pytest.approx(b.similarity(a), abs=1e-6)
    assert -1 - 1e-5 <= a.similarity(b) <= 1 + 1e-5
    assert Embedding.from_values(first * 3, MODEL).similarity(b) == pytest.approx(a.similarity(b), abs=1e-5)
    expected = float(first.astype(float) @ second / np.linalg.norm(first.astype(float)) / np.linalg.norm(second.astype(float)))
    assert a.similarity(b) == pytest.approx(expected, abs=1e-4)


def test_features_of_a_network_become_embeddings_one_by_one() -> None:
    """Iterating gives each row as an embedding with its own length and the shared model."""
    batch = Embeddings.from_features(np.array([[3, 4, 0, 0], [0, 0, 2, 0]], np.float64), MODEL)
    assert len(batch) == 2
    first, second = batch
    np.testing.assert_allclose(first.vector, [0.6, 0.8, 0, 0], rtol=1e-6)
    assert (first.norm, second.norm) == (5.0, 2.0)
    assert first.model == second.model == MODEL
    assert len(Embeddings.from_features(np.empty((0, 4)), MODEL)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    """NaN never enters a gallery."""
    with pytest.raises(InvalidInput, match="NaN or infinity") as caught:
        Embeddings.from_features(np.array([[1, 2, bad, 4]]), MODEL)
    assert caught.value.code == "invalid_embedding"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0, 2.0], "has 4 values, got 2"),
        ([0.0] * 4, "not all zero"),
        ([1.0, float("nan"), 0, 0], "must be finite"),
        ([1.0, float("inf"), 0, 0], "must be finite"),
    ],
)
def test_a_vector_from_outside_is_checked(values: list[float], sentence: str) -> None:
    """The sentence says which rule the vector breaks."""
    with pytest.raises(InvalidInput, match=sentence) as caught:
        Embedding.from_values(values, MODEL)
    assert caught.value.code == "invalid_embedding"


@pytest.mark.parametrize("vector", [np.zeros(4), np.zeros(3, np.float32), np.zeros((1, 4), np.float32)])
def test_an_embedding_of_another_shape_or_type_cannot_be_made(vector: np.ndarray) -> None:
    """Shape and dtype are checked once, at construction."""
    with pytest.raises(ValueError, match="float32"):
        Embedding(vector, 1.0, MODEL)


@pytest.mark.parametrize(
    ("vectors", "norms"),
    [(np.zeros((2, 4)), 2), (np.zeros((2, 3), np.float32), 2), (np.zeros((2, 4), np.float32), 1)],
    ids=["dtype", "dimension", "count"],
)
def test_embeddings_of_another_shape_or_type_cannot_be_made(vectors: np.ndarray, norms: int) -> None:
    """Rows, dimension and dtype are checked once, at construction."""
    with pytest.raises(ValueError, match="float32"):
        Embeddings(vectors, np.ones(norms, np.float32), MODEL)

"""Pairs of least cost, against trying all of them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.domain.assignment import assign

LIMIT = 0.6
COSTS = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 5).flatmap(
        lambda columns: st.lists(
            st.lists(st.one_of(st.floats(0, 1), st.just(float("inf"))), min_size=columns, max_size=columns), min_size=rows, max_size=rows
        )
    )
)


def _total(costs: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    return sum(costs[pair] for pair in pairs) + LIMIT * (len(costs) - len(pairs))


def _least(costs: np.ndarray) -> float:
    """The least total over all ways to give each row a column of its own or none."""
    rows, columns = costs.shape
    choices = permutations([*range(columns), *[-1] * rows], rows)
    return min(sum(costs[row, one] if one >= 0 else LIMIT for row, one in enumerate(choice)) for choice in set(choices))


@settings(max_examples=150, deadline=None)
@given(COSTS)
def test_no_other_pairs_cost_less(costs):
    """The total equals the least of all possible ones; rows and columns occur once; nothing at the limit is paired."""
    matrix = np.array(costs)
    pairs = assign(matrix, LIMIT)
    assert _total(matrix, pairs) == pytest.approx(_least(matrix))
    rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
    assert rows == sorted(set(rows))
    assert len(columns) == len(set(columns))
    assert all(matrix[pair] < LIMIT for pair in pairs)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nobody_is_nobodys(shape):
    """Without rows or columns there are no pairs."""
    assert assign(np.zeros(shape), LIMIT) == []


def test_a_crowd_is_paired_with_itself():
    """128 rows in another order find their columns, though every row likes the first column best."""
    order = np.random.default_rng(0).permutation(128)
    costs = np.full((128, 128), 0.5)
    costs[:, 0] = 0.2
    costs[np.arange(128), order] = 0.1
    assert assign(costs, LIMIT) == list(enumerate(order.tolist()))

"""Who belongs to whom, at the least cost in all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]


def assign(costs: Costs, limit: float) -> list[tuple[int, int]]:
    """Pair rows with columns of an R×C matrix so that the sum is least, rows rising.

    A pair costs what the matrix says, a row left alone costs ``limit``; so no pair of ``limit`` or
    more is made. Infinity forbids a pair. Shortest augmenting paths (Kuhn 1955; Jonker & Volgenant
    1987), O(min(R, C)²·max(R, C)): SciPy's solver is faster on hundreds of rows, but importing it
    takes half a second and 50 MB, and a picture holds few faces.
    """
    if costs.size == 0:
        return []
    bounded = np.minimum(costs, limit)
    nearest = bounded.argmin(axis=1)
    if len(set(nearest.tolist())) == len(nearest):
        # Everybody can have their best: nothing can be cheaper.
        columns = nearest
    elif bounded.shape[0] > bounded.shape[1]:
        columns = np.full(len(bounded), -1)
        rows = _solve(bounded.T)
        columns[rows] = np.arange(len(rows))
    else:
        columns = _solve(bounded)
    return [(row, column) for row, column in enumerate(columns.tolist()) if column >= 0 and bounded[row, column] < limit]


def _solve(costs: Costs) -> NDArray[Any]:
    """The column of each row; there are at least as many columns as rows, and all costs are finite."""
    rows, columns = costs.shape
    # Column 0 stands for the row that is being placed; rows and columns count from 1.
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.intp)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, np.intp)
        seen = np.zeros(columns + 1, bool)
        while True:
            seen[column] = True
            placed = owner[column]
            reduced = costs[placed - 1] - row_price[placed] - column_price[1:]
            better = ~seen[1:] & (reduced < slack[1:])
            slack[1:][better] = reduced[better]
            before[1:][better] = column
            following = 1 + int(np.where(seen[1:], np.inf, slack[1:]).argmin())
            step = slack[following]
            row_price[owner[seen]] += step
            column_price[seen] -= step
            slack[~seen] -= step
            column = following
            if owner[column] == 0:
                break
        while column:
            owner[column] = owner[before[column]]
            column = int(before[column])
    placed_at = np.zeros(rows, np.intp)
    taken = np.flatnonzero(owner[1:])
    placed_at[owner[1:][taken] - 1] = taken
    return placed_at

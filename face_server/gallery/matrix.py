"""Rows of half floats that FAISS searches and that can be moved and dropped cheaply."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats
from face_server.workers import available_cores

Rows = NDArray[np.int64]
Found = tuple[Floats, Rows]

PIECE_ROWS = 65_536
_STRIPES = 2
_PAIR_ROWS = _STRIPES * PIECE_ROWS
_FIRST_ROWS = 256
_LEAST_ROWS_A_LANE = 32_768
_FEW_ROWS = 8
_HUGE_PAGE_BYTES = 2 * 1024 * 1024
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
_madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


def _grown(capacity: int, needed: int) -> int:
    """A sixteenth more than before, or what is needed: appending stays cheap, little is spare."""
    return max(needed, capacity + capacity // 16)


class Column:
    """A numpy column of which at most a sixteenth is spare."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values: NDArray[Any] = np.empty(_FIRST_ROWS, dtype)
        self._used = 0

    @property
    def values(self) -> NDArray[Any]:
        """A view of what is used; valid until the next change of size."""
        return self._values[: self._used]

    @property
    def nbytes(self) -> int:
        """Memory held, spare included."""
        return int(self._values.nbytes)

    def extend(self, values: NDArray[Any]) -> None:
        """Append."""
        needed = self._used + len(values)
        if needed > len(self._values):
            self._resize(_grown(len(self._values), needed))
        self._values[self._used : needed] = values
        self._used = needed

    def reserve(self, capacity: int) -> None:
        """Make room for as many values in all."""
        if capacity > len(self._values):
            self._resize(capacity)

    def replace(self, values: NDArray[Any]) -> None:
        """Take ``values`` in place of everything."""
        self._used = 0
        self._resize(max(_FIRST_ROWS, len(values)))
        self.extend(values)

    def truncate(self, used: int) -> None:
        """Keep the first ``used`` values."""
        self._used = used
        if self._used < len(self._values) // 2 and len(self._values) > _FIRST_ROWS:
            self._resize(max(_FIRST_ROWS, self._used))

    def _resize(self, capacity: int) -> None:
        grown = np.empty(capacity, self._values.dtype)
        grown[: self._used] = self._values[: self._used]
        self._values = grown


class Piece:
    """Up to ``PIECE_ROWS`` rows in one FAISS index, whose code memory numpy writes directly.

    FAISS keeps a QT_fp16 row as d IEEE half floats. Writing them ourselves makes moving and
    dropping a row O(d), and spares FAISS's growth by doubling beyond a piece.
    """

    def __init__(self, dimension: int, capacity: int) -> None:
        self._dimension = dimension
        self._index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._codes = np.empty((0, dimension), np.float16)
        self._reserve(min(PIECE_ROWS, max(_FIRST_ROWS, capacity)))

    @property
    def rows(self) -> int:
        """Rows in use."""
        return int(self._index.ntotal)

    @property
    def codes(self) -> NDArray[np.float16]:
        """rows×d view; valid until the next change of size."""
        return self._codes[: self.rows]

    @property
    def nbytes(self) -> int:
        """Memory held, spare included."""
        return int(self._codes.nbytes)

    def extend(self, vectors: Floats) -> int:
        """Append as many of ``vectors`` as fit and return how many that were."""
        rows = self.rows
        taken = min(len(vectors), PIECE_ROWS - rows)
        if rows + taken > len(self._codes):
            self._reserve(min(PIECE_ROWS, _grown(len(self._codes), rows + taken)))
        self._codes[rows : rows + taken] = vectors[:taken]
        self._index.ntotal = rows + taken
        return taken

    def truncate(self, rows: int) -> None:
        """Keep the first ``rows`` and overwrite the others."""
        self._codes[rows : self.rows] = 0
        self._index.ntotal = rows

    def search(self, probes: Floats, count: int) -> tuple[Floats, Rows]:
        """n×k highest inner products and their rows in this piece; k = min(``count``, rows)."""
        # The setting is a thread's own: cores are shared out by our threads, one each.
        faiss.omp_set_num_threads(1)
        similarities, rows = self._index.search(probes, min(count, self.rows))
        return similarities, rows

    def above(self, probe: Floats, floor: float) -> tuple[Floats, Rows]:
        """All inner products above ``floor`` with one probe (d) and their rows in this piece."""
        faiss.omp_set_num_threads(1)
        _, similarities, rows = self._index.range_search(probe[None], floor)
        return similarities, rows

    def _reserve(self, capacity: int) -> None:
        size = capacity * self._dimension * 2
        self._index.codes.resize(size)
        memory: NDArray[np.uint8] = faiss.rev_swig_ptr(self._index.codes.data(), size)
        _use_huge_pages(memory)
        self._codes = memory.view(np.float16).reshape(capacity, self._dimension)


def _use_huge_pages(memory: NDArray[np.uint8]) -> None:
    """Let Linux back ``memory`` by huge pages where it can: scanning it is 5 to 15 % faster."""
    first = -(-memory.ctypes.data // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    size = (memory.ctypes.data + memory.nbytes - first) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if size > 0 and _madvise is not None:
        for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
            # Advice: a kernel that does not know it refuses, and nothing else changes.
            _madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


def _all(search: Callable[[Piece], Found], pieces: Sequence[Piece]) -> list[Found]:
    return [search(piece) for piece in pieces]


class Matrix:
    """N×d unit rows as half floats, in pairs of pieces; all but the last pair are full.

    Rows of a pair go to its pieces in turn, so that two threads have equal shares of any collection.
    Memory is 2·d bytes a row, plus the spare rows of the last pair.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._pieces: list[Piece] = []
        self._expected = 0
        self.rows = 0

    @property
    def nbytes(self) -> int:
        """Memory held, spare included."""
        return sum(piece.nbytes for piece in self._pieces)

    def expect(self, rows: int) -> None:
        """Give new pieces the size that ``rows`` in all need, so that they need not grow."""
        self._expected = rows

    def extend(self, vectors: Floats) -> None:
        """Append m×d vectors."""
        while len(vectors):
            used = self.rows % _PAIR_ROWS
            if not used:
                share = -(-(self._expected - self.rows) // _STRIPES)
                self._pieces += [Piece(self._dimension, share) for _ in range(_STRIPES)]
            taken = min(len(vectors), _PAIR_ROWS - used)
            for turn in range(min(taken, _STRIPES)):
                self._pieces[(used + turn) % _STRIPES - _STRIPES].extend(vectors[turn:taken:_STRIPES])
            self.rows += taken
            vectors = vectors[taken:]

    def copy(self, source: int, target: int) -> None:
        """Overwrite row ``target`` with row ``source``."""
        self._row(target)[:] = self._row(source)

    def truncate(self, rows: int) -> None:
        """Keep the first ``rows``."""
        pairs = -(-rows // _PAIR_ROWS)
        del self._pieces[pairs * _STRIPES :]
        left = rows - (pairs - 1) * _PAIR_ROWS
        for stripe, piece in enumerate(self._pieces[-_STRIPES:]):
            piece.truncate((left - stripe + _STRIPES - 1) // _STRIPES)
        self.rows = rows

    def gather(self, rows: Rows) -> Floats:
        """R×d float32 copies of ``rows``."""
        gathered = np.empty((len(rows), self._dimension), np.float32)
        if len(rows) <= _FEW_ROWS:
            for target, row in zip(gathered, rows.tolist(), strict=True):
                target[:] = self._row(row)
            return gathered
        places, positions = _places(rows)
        for place in set(places.tolist()):
            chosen = places == place
            gathered[chosen] = self._pieces[place].codes[positions[chosen]]
        return gathered

    def search(self, probes: Floats, count: int, executor: Executor | None) -> list[Found]:
        """For each of n×d probes the k highest inner products, in no order, and their rows; k = min(``count``, N).

        The pieces are searched at once by the threads of ``executor``.
        """
        found = self._each(lambda piece: piece.search(probes, count), executor)
        answers = []
        for probe in range(len(probes)):
            similarities = np.concatenate([part[probe] for part, _ in found])
            rows = np.concatenate([_rows(place, part[probe]) for place, (_, part) in enumerate(found)])
            if len(similarities) > count:
                nearest = similarities.argpartition(-count)[-count:]
                similarities, rows = similarities[nearest], rows[nearest]
            answers.append((similarities, rows))
        return answers

    def above(self, probe: Floats, floor: float, executor: Executor | None) -> Found:
        """All inner products above ``floor`` with one probe (d), in no order, and their rows."""
        found = self._each(lambda piece: piece.above(probe, floor), executor)
        similarities = np.concatenate([part for part, _ in found])
        return similarities, np.concatenate([_rows(place, part) for place, (_, part) in enumerate(found)])

    def _each(self, search: Callable[[Piece], Found], executor: Executor | None) -> list[Found]:
        # With one row in the last pair its second piece is empty, which FAISS refuses to search.
        pieces = [piece for piece in self._pieces if piece.rows]
        lanes = 1 if executor is None else min(available_cores(), len(pieces), self.rows // _LEAST_ROWS_A_LANE)
        if executor is None or lanes < 2:
            return _all(search, pieces)
        # Every lane takes each lanes-th piece, and the calling thread is one of them: few threads to wake.
        others = [executor.submit(_all, search, pieces[lane::lanes]) for lane in range(1, lanes)]
        found = [_all(search, pieces[::lanes]), *(other.result() for other in others)]
        return [found[place % lanes][place // lanes] for place in range(len(pieces))]

    def _row(self, row: int) -> NDArray[np.float16]:
        place, position = _places(row)
        view: NDArray[np.float16] = self._pieces[place].codes[position]
        return view


_Place = TypeVar("_Place", int, Rows)


def _places(rows: _Place) -> tuple[_Place, _Place]:
    """In which piece rows are, and where in it."""
    return rows // _PAIR_ROWS * _STRIPES + rows % _STRIPES, rows % _PAIR_ROWS // _STRIPES


def _rows(place: int, positions: Rows) -> Rows:
    """The inverse, for rows of one piece."""
    return positions * _STRIPES + (place // _STRIPES * _PAIR_ROWS + place % _STRIPES)

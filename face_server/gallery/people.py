"""Which rows of an index belong to which person, in 16 bytes a row and 20 a person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats
from face_server.gallery.matrix import Column, Rows

Slots = NDArray[np.int64]

_NONE = -1
_FEW_TOMBSTONES = 1_024


class People:
    """People as slots, rising by key, and the rows of each as a linked list.

    Keys are the store's: whole numbers that only rise, so that a new person goes to the end and a
    key is found by bisection. A removed person leaves a tombstone (count -1) until a quarter of
    the slots are tombstones. Rows are numbered densely from 0; ``release`` moves the last row into
    the hole that a removed row leaves and tells its caller to do the same.
    """

    def __init__(self) -> None:
        self._keys = Column(np.int64)
        self._heads = Column(np.int32)
        self._counts = Column(np.int32)
        self._lengths = Column(np.float32)
        self._template_keys = Column(np.int64)
        self._owners = Column(np.int32)
        self._next = Column(np.int32)
        self._tombstones = 0

    @property
    def nbytes(self) -> int:
        """Memory held, spare included."""
        columns = (self._keys, self._heads, self._counts, self._lengths, self._template_keys, self._owners, self._next)
        return sum(column.nbytes for column in columns)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Key of each slot, rising."""
        return self._keys.values

    @property
    def counts(self) -> NDArray[np.int32]:
        """Templates of each slot; -1 for a tombstone."""
        return self._counts.values

    @property
    def lengths(self) -> Floats:
        """‖Σv‖ of the template vectors of each slot, set by whoever knows the vectors."""
        return self._lengths.values

    @property
    def owners(self) -> NDArray[np.int32]:
        """Slot of each row."""
        return self._owners.values

    @property
    def template_keys(self) -> NDArray[np.int64]:
        """Template key of each row."""
        return self._template_keys.values

    def expect(self, people: int, templates: int) -> None:
        """Make room for as many in all."""
        for column in (self._keys, self._heads, self._counts, self._lengths):
            column.reserve(people)
        for column in (self._template_keys, self._owners, self._next):
            column.reserve(templates)

    def add(self, keys: NDArray[np.int64]) -> None:
        """Add people without templates; ``keys`` rise, above every key there ever was."""
        if len(keys) and len(self.keys) and keys[0] <= self.keys[-1]:
            raise ValueError(f"person key {keys[0]} is not above {self.keys[-1]}")
        self._keys.extend(keys)
        self._heads.extend(np.full(len(keys), _NONE, np.int32))
        self._counts.extend(np.zeros(len(keys), np.int32))
        self._lengths.extend(np.zeros(len(keys), np.float32))

    def find(self, keys: NDArray[np.int64] | Sequence[int]) -> Slots:
        """Slots of people by key, -1 where there is none."""
        wanted = np.asarray(keys, np.int64)
        if not len(self.keys):
            return np.full(len(wanted), _NONE, np.int64)
        slots = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        there = (self.keys[slots] == wanted) & (self.counts[slots] >= 0)
        return np.asarray(np.where(there, slots, _NONE), np.int64)

    def assign(self, template_keys: NDArray[np.int64], slots: Slots) -> None:
        """Append a row for each template, owned by the person at its slot."""
        first_row = len(self.owners)
        order = np.argsort(slots, kind="stable")
        rows, owners = (first_row + order).astype(np.int32), slots[order]
        last_of_owner = np.append(owners[1:] != owners[:-1], True)[: len(owners)]
        links = np.empty(len(slots), np.int32)
        links[order] = np.where(last_of_owner, self._heads.values[owners], np.append(rows[1:], _NONE)[: len(rows)])
        first_of_owner = np.append(True, last_of_owner[:-1])[: len(owners)]
        self._heads.values[owners[first_of_owner]] = rows[first_of_owner]
        np.add.at(self.counts, slots, 1)
        self._template_keys.extend(template_keys)
        self._owners.extend(slots.astype(np.int32))
        self._next.extend(links)

    def rows_of(self, slots: Slots) -> tuple[Rows, Rows]:
        """Rows of the people at ``slots``, person by person, older templates first, and where each begins."""
        counts = self.counts[slots].astype(np.int64)
        starts = np.cumsum(counts) - counts
        rows = np.empty(int(counts.sum()), np.int64)
        cursor, place = self._heads.values[slots].astype(np.int64), starts.copy()
        while True:
            there = cursor != _NONE
            cursor, place = cursor[there], place[there]
            if not len(cursor):
                break
            rows[place] = cursor
            place = place + 1
            cursor = self._next.values[cursor].astype(np.int64)
        groups = np.repeat(np.arange(len(slots)), counts)
        return rows[np.lexsort((self.template_keys[rows], groups))], starts

    def release(self, slot: int, template_key: int) -> tuple[int, int]:
        """Forget one row of the person at ``slot``; (row, last): the last row must move to ``row``."""
        row = self._unlink(slot, template_key)
        last = len(self.owners) - 1
        if row != last:
            self._redirect(int(self.owners[last]), last, row)
            for column in (self._template_keys, self._owners, self._next):
                column.values[row] = column.values[last]
        for column in (self._template_keys, self._owners, self._next):
            column.truncate(last)
        return row, last

    def bury(self, slot: int) -> None:
        """Make a tombstone of a person without templates."""
        if self.counts[slot] != 0:
            raise ValueError("only a person without templates can be removed")
        self.counts[slot] = _NONE
        self.lengths[slot] = 0.0
        self._tombstones += 1

    def compact(self) -> bool:
        """Drop the tombstones when they are many; slots then change. Whether it did."""
        if self._tombstones < max(_FEW_TOMBSTONES, len(self.keys) // 4):
            return False
        alive = self.counts >= 0
        moved_to = (np.cumsum(alive) - 1).astype(np.int32)
        self.owners[:] = moved_to[self.owners]
        for column in (self._keys, self._heads, self._counts, self._lengths):
            column.replace(column.values[alive])
        self._tombstones = 0
        return True

    def _unlink(self, slot: int, template_key: int) -> int:
        before, row = _NONE, int(self._heads.values[slot])
        while row != _NONE and self.template_keys[row] != template_key:
            before, row = row, int(self._next.values[row])
        if row == _NONE:
            raise KeyError(template_key)
        after = self._next.values[row]
        if before == _NONE:
            self._heads.values[slot] = after
        else:
            self._next.values[before] = after
        self.counts[slot] -= 1
        return row

    def _redirect(self, slot: int, row: int, new_row: int) -> None:
        cursor = int(self._heads.values[slot])
        if cursor == row:
            self._heads.values[slot] = new_row
            return
        while self._next.values[cursor] != row:
            cursor = int(self._next.values[cursor])
        self._next.values[cursor] = new_row

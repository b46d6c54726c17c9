"""The searchable copy of one collection: exact, in memory, rebuilt from the store at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats
from face_server.gallery.matrix import Matrix, Rows
from face_server.gallery.people import People, Slots
from face_server.gallery.scoring import BEST_WEIGHT, DECIMALS, person_scores, stretches
from face_server.gallery.shared_lock import SharedLock

_FIRST_NEAREST = 64
_NEAREST_A_PERSON = 8
_BELOW_ALL = -2.0
_LOOSE_STRETCH = 1.5
_ROUNDING = 1e-5
_MEASURED_AT_ONCE = 1_024

Keys = NDArray[np.int64]


def _no_keys() -> Keys:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class IndexChange:
    """What changes at once. ``removed_templates`` are (person key, template key) pairs.

    Applied in the order of the fields. ``vectors`` is m×d float32 for m ``template_keys`` of the
    people at ``owner_keys``; ``new_people`` rise.
    """

    removed_templates: Sequence[tuple[int, int]] = ()
    removed_people: Sequence[int] = ()
    new_people: Keys = field(default_factory=_no_keys)
    template_keys: Keys = field(default_factory=_no_keys)
    owner_keys: Keys = field(default_factory=_no_keys)
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))


@dataclass(frozen=True, slots=True)
class Nearest:
    """A person by key, their score, and the template nearest to the probe (the oldest of equals)."""

    person_key: int
    similarity: float
    template_key: int
    template_similarity: float


class CollectionIndex:
    """Templates of one collection as FAISS half floats, and whose they are.

    One thread writes; any number search. Whoever searches holds ``lock`` shared, so that it sees
    all of a change or nothing of it. ``revision`` is the store's revision this is a copy of.
    """

    def __init__(self, dimension: int) -> None:
        self.lock = SharedLock()
        self.revision = 0
        self._matrix = Matrix(dimension)
        self._people = People()
        self._stretch = 1.0
        self._loose: set[int] = set()

    @property
    def templates(self) -> int:
        """Rows."""
        return self._matrix.rows

    @property
    def nbytes(self) -> int:
        """Memory held by vectors and bookkeeping, spare included."""
        return self._matrix.nbytes + self._people.nbytes

    def expect(self, people: int, templates: int) -> None:
        """Make room for what ``load`` will bring: growing leaves holes that memory does not give back."""
        self._people.expect(people, templates)
        self._matrix.expect(templates)

    def load(self, change: IndexChange) -> None:
        """Add people and templates while nobody searches yet; ``finish_load`` must follow."""
        self._people.add(change.new_people)
        self._append(change)

    def finish_load(self, revision: int) -> None:
        """Measure everybody after the last ``load``."""
        slots = np.arange(len(self._people.keys))
        for first in range(0, len(slots), _MEASURED_AT_ONCE):
            self._measure(slots[first : first + _MEASURED_AT_ONCE])
        self.revision = revision

    def apply(self, change: IndexChange, revision: int, also: Callable[[], None] | None = None) -> None:
        """Make a change, between searches; ``also`` is what else must change with it."""
        with self.lock.exclusive():
            if also is not None:
                also()
            touched = set(change.owner_keys.tolist()) | {person for person, _ in change.removed_templates}
            for person, template in change.removed_templates:
                self._remove(self._slot(person), template)
            for person in change.removed_people:
                slot = self._slot(person)
                self._people.bury(slot)
                self._loose.discard(slot)
            self._people.add(change.new_people)
            self._append(change)
            remaining = sorted(touched.difference(change.removed_people))
            self._measure(self._people.find(remaining))
            if self._people.compact():
                stretched = stretches(self._people.counts, self._people.lengths)
                self._loose = set(np.flatnonzero(stretched > _LOOSE_STRETCH).tolist())
            self.revision = revision

    def template_keys_of(self, person_key: int) -> list[int]:
        """Keys of a person's templates, oldest first; empty for an unknown person. For the writing thread."""
        slots = self._people.find([person_key])
        if slots[0] < 0:
            return []
        rows, _ = self._people.rows_of(slots)
        return [int(key) for key in self._people.template_keys[rows]]

    def vectors_of(self, person_key: int) -> tuple[Keys, Floats]:
        """Keys and vectors of a person's templates, as they are searched. For the writing thread."""
        rows, _ = self._people.rows_of(self._people.find([person_key]))
        return self._people.template_keys[rows].copy(), self._matrix.gather(rows)

    @property
    def highest_person(self) -> int:
        """No person that is added may have a lower key, or this."""
        return int(self._people.keys[-1]) if len(self._people.keys) else 0

    def people(self) -> Keys:
        """Keys of all people, rising."""
        return self._people.keys[self._people.counts >= 0].copy()

    def has(self, person_key: int) -> bool:
        """Whether the person is known, with templates or without."""
        return bool(self._people.find([person_key])[0] >= 0)

    def contents(self) -> tuple[Keys, Keys]:
        """Template key and owner key of each row."""
        return self._people.template_keys.copy(), self._people.keys[self._people.owners]

    def vectors(self, rows: Rows) -> Floats:
        """R×d vectors of ``rows``, as they are searched."""
        return self._matrix.gather(rows)

    def search(self, probes: Floats, limit: int, executor: Executor | None = None) -> list[list[Nearest]]:
        """For each of n×d unit ``probes`` the ``limit`` nearest people, best first, each once.

        Exact by ``scoring.person_scores``. The k = max(64, 8·limit) rows nearest to the probe give
        the people to score, with all their templates. A person without a row among them has no
        template nearer than the last of the k, so scores at most that times the largest stretch
        (``scoring.stretches``) of anybody. If the last person found does not score higher than
        this bound, all rows that could give a higher score are fetched by a second pass. The
        few people of more stretch than 1.5 (templates that hardly resemble each other) would
        spoil the bound for all: they are always scored.
        More than ``limit`` are returned where others tie with the last.
        """
        if not self.templates:
            return [[] for _ in range(len(probes))]
        nearest = self._matrix.search(probes, max(_FIRST_NEAREST, _NEAREST_A_PERSON * limit), executor)
        found = []
        for probe, (near, near_rows) in zip(probes, nearest, strict=True):
            people = self._nearest(probe, near, near_rows, limit)
            last = people[-1].similarity if len(people) >= limit else -1.0
            if len(near) < self.templates and last <= self._ceiling(near.min(), self._stretch) + _ROUNDING:
                floor = (last - _ROUNDING) / self._stretch if last > 0 else _BELOW_ALL
                people = self._nearest(probe, *self._matrix.above(probe, floor - _ROUNDING, executor), limit)
            found.append(people)
        return found

    def compare(self, person_key: int, probes: Floats) -> list[Nearest]:
        """For each of n×d unit ``probes`` how near one person is; empty if they have no template."""
        slots = self._people.find([person_key])
        if slots[0] < 0 or not self._people.counts[slots[0]]:
            return []
        return [self._score(probe, slots, 1)[0] for probe in probes]

    def _nearest(self, probe: Floats, similarities: Floats, rows: Rows, limit: int) -> list[Nearest]:
        """The ``limit`` best of the people who own ``rows`` or are loose, scored no more than needed."""
        slots, nearest = self._people.owners[rows].astype(np.int64), similarities
        most = self._people.counts[slots].max()
        if most == 1 and not self._loose:
            return self._nearest_single(probe, similarities, rows, slots, limit)
        if most > 1:
            slots, places = np.unique(slots, return_inverse=True)
            nearest = np.full(len(slots), -1.0, np.float32)
            np.maximum.at(nearest, places, similarities)
        ceilings = self._ceiling(nearest, stretches(self._people.counts[slots], self._people.lengths[slots]))
        loose = np.fromiter(self._loose, np.int64, len(self._loose))
        promising = np.argsort(-ceilings)
        first = np.union1d(slots[promising[: 4 * limit]], loose) if len(loose) else np.sort(slots[promising[: 4 * limit]])
        people = self._score(probe, first, limit)
        if len(people) < limit:
            return people
        rest = promising[4 * limit :]
        rest = rest[ceilings[rest] >= people[-1].similarity - _ROUNDING]
        return self._score(probe, np.union1d(first, slots[rest]), limit) if len(rest) else people

    def _nearest_single(self, probe: Floats, similarities: Floats, rows: Rows, slots: Slots, limit: int) -> list[Nearest]:
        """As ``_nearest``, where every row is all that its owner has: usual, and far fewer steps."""
        lengths = self._people.lengths[slots]
        if len(rows) > limit:
            estimates = np.minimum(similarities * (BEST_WEIGHT + (1.0 - BEST_WEIGHT) / lengths), 1.0)
            best = np.flatnonzero(estimates >= np.partition(estimates, -limit)[-limit] - _ROUNDING)
            rows, slots, lengths = rows[best], slots[best], lengths[best]
        similarities = self._similarities(probe, rows)
        scores = person_scores(similarities, np.arange(len(rows)), lengths)
        ranked = sorted(zip((-scores).tolist(), slots.tolist(), rows.tolist(), similarities.tolist(), strict=True))
        lowest = ranked[min(limit, len(ranked)) - 1][0]
        keys, template_keys = self._people.keys, self._people.template_keys
        return [
            Nearest(int(keys[slot]), -score, int(template_keys[row]), round(min(1.0, similarity), DECIMALS))
            for score, slot, row, similarity in ranked
            if score <= lowest
        ]

    def _similarities(self, probe: Floats, rows: Rows) -> Floats:
        # einsum, unlike a matrix product, gives equal rows equal results wherever they stand.
        similarities: Floats = np.einsum("rd,d->r", self._matrix.gather(rows), probe)
        return similarities

    def _score(self, probe: Floats, slots: Slots, limit: int) -> list[Nearest]:
        """The ``limit`` best of the people at ``slots`` and those who tie with the last, best first."""
        rows, starts = self._people.rows_of(slots)
        similarities = self._similarities(probe, rows)
        scores = person_scores(similarities, starts, self._people.lengths[slots])
        lowest = np.partition(scores, -limit)[-limit] if limit < len(scores) else -np.inf
        best = np.flatnonzero(scores >= lowest)
        ends = np.append(starts[1:], len(rows))
        people = []
        for person in best[np.argsort(-scores[best], kind="stable")].tolist():
            nearest = int(starts[person]) + int(similarities[starts[person] : ends[person]].argmax())
            template_key = int(self._people.template_keys[rows[nearest]])
            similarity = round(min(1.0, float(similarities[nearest])), DECIMALS)
            people.append(Nearest(int(self._people.keys[slots[person]]), float(scores[person]), template_key, similarity))
        return people

    @staticmethod
    def _ceiling(nearest: Floats, stretch: Floats | float) -> Floats:
        """The highest score of people whose nearest template is at ``nearest``."""
        return np.asarray(np.where(nearest > 0, nearest * stretch, nearest), np.float32)

    def _slot(self, person_key: int) -> int:
        slot = int(self._people.find([person_key])[0])
        if slot < 0:
            raise KeyError(person_key)
        return slot

    def _append(self, change: IndexChange) -> None:
        if not len(change.template_keys):
            return
        slots = self._people.find(change.owner_keys)
        if slots.min() < 0:
            raise KeyError(int(change.owner_keys[slots < 0][0]))
        self._matrix.extend(change.vectors)
        self._people.assign(change.template_keys, slots)

    def _remove(self, slot: int, template_key: int) -> None:
        row, last = self._people.release(slot, template_key)
        if row != last:
            self._matrix.copy(last, row)
        self._matrix.truncate(last)

    def _measure(self, slots: Slots) -> None:
        """Set ‖Σv‖ of the people at ``slots`` from their rows, and what follows from it."""
        self._people.lengths[slots] = 0.0
        several = slots[self._people.counts[slots] > 0]
        if len(several):
            rows, starts = self._people.rows_of(several)
            sums = np.add.reduceat(self._matrix.gather(rows), starts, axis=0)
            self._people.lengths[several] = np.linalg.norm(sums, axis=1)
        stretched = stretches(self._people.counts[slots], self._people.lengths[slots])
        loose = stretched > _LOOSE_STRETCH
        self._loose.difference_update(slots[~loose].tolist())
        self._loose.update(slots[loose].tolist())
        # Never lowered but by a load: an upper bound serves as well, and it is at most 1.5.
        self._stretch = max(self._stretch, float(stretched[~loose].max(initial=1.0)))

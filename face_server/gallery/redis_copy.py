"""One collection of a shared gallery as a replica holds it: an index, and the names that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from face_server.domain.embedding import Embeddings
from face_server.domain.identity import Candidate, Collection, Identity
from face_server.domain.image import Floats
from face_server.gallery.candidates import best_first, candidate
from face_server.gallery.index import CollectionIndex, IndexChange, Nearest
from face_server.gallery.matrix import Column
from face_server.gallery.redis_layout import Batch, Keys, identity_id, keys_of, sought, template_keys, unpack_person
from face_server.gallery.refusals import identity_missing, no_template

Fetch = Callable[[list[int]], "Arrived"]


class Diverged(Exception):
    """The copy cannot follow: it must be made anew."""


@dataclass(slots=True)
class Arrived:
    """Templates that came from the store: their keys, and ids and vectors in the same order."""

    keys: Keys
    batch: Batch
    _places: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self._places = {key: place for place, key in enumerate(self.keys.tolist())}

    def place(self, key: int) -> int | None:
        """Where a template is in the batch."""
        return self._places.get(key)


class CollectionCopy:
    """One thread changes it, any number search it; all of a change or nothing of it is seen.

    ``people`` holds each person as the store has them (a few dozen bytes), by key; ``template_ids`` the ids of the
    templates of the index. ``trusted`` is false while people in it may be gone from the store: it must not name anybody.
    """

    def __init__(self, number: bytes, value: Collection) -> None:
        self.number = number
        self.value = value
        self.trusted = False
        self.index = CollectionIndex(value.model.dimension)
        self.people: dict[int, bytes] = {}
        self.template_ids: dict[int, bytes] = {}
        self._hashes = Column(np.int64)
        self._keys = Column(np.int64)

    def empty(self) -> None:
        """Give the memory back: a new copy is about to be made."""
        self.trusted = False
        self.index = CollectionIndex(self.value.model.dimension)
        self.people, self.template_ids = {}, {}

    # Searching

    def search(self, probes: Embeddings, limit: int, scanners: Executor) -> list[list[Candidate]]:
        """For each probe the ``limit`` nearest people, best first, each once; ties by identity id."""
        with self.index.lock.shared():
            found = self.index.search(probes.vectors, limit, scanners)
            return [best_first(map(self._candidate, some), limit) for some in found]

    def compare(self, identity: str, probes: Embeddings) -> list[Candidate]:
        """For each probe how near it is to one identity. NotFound if it is unknown or has no template."""
        with self.index.lock.shared():
            key = self._key_of(sought(identity))
            if key is None:
                raise identity_missing(identity, self.value.name)
            found = self.index.compare(key, probes.vectors)
            if not found and len(probes):
                raise no_template(identity)
            return [self._candidate(one) for one in found]

    def _candidate(self, found: Nearest) -> Candidate:
        return candidate(found, self.template_ids[found.template_key].decode(), self._identity(found.person_key))

    def _identity(self, key: int) -> Identity:
        return unpack_person(self.people[key])

    def _key_of(self, identity: bytes) -> int | None:
        for place in np.flatnonzero(self._hashes.values == hash(identity)).tolist():
            key = int(self._keys.values[place])
            if key in self.people and identity_id(self.people[key]) == identity:
                return key
        return None

    # Changing

    def begin_load(self, people: dict[int, bytes]) -> None:
        """Take all people, while nobody searches yet."""
        self.people = people
        self.index.expect(len(people), self.value.templates)
        keys = np.sort(np.fromiter(people, np.int64, len(people)))
        self.index.load(IndexChange(new_people=keys))
        self._remember(people)

    def load(self, arrived: Arrived) -> None:
        """Add templates of known people, while nobody searches yet; what came before is left out."""
        chosen = [
            place
            for place, (key, owner) in enumerate(zip(arrived.keys.tolist(), arrived.batch.owners.tolist(), strict=True))
            if key not in self.template_ids and owner in self.people
        ]
        keys = arrived.keys[chosen]
        self.template_ids.update(zip(keys.tolist(), (arrived.batch.ids[place] for place in chosen), strict=True))
        self.index.load(IndexChange(template_keys=keys, owner_keys=arrived.batch.owners[chosen], vectors=arrived.batch.vectors[chosen]))

    def finish_load(self) -> None:
        """Make what was loaded searchable."""
        self.index.finish_load(0)

    def follow(self, people: Mapping[int, bytes | None], arrived: Arrived, fetch: Fetch | None, value: Collection | None = None) -> None:
        """Become as the store says ``people`` are now; None are gone.

        Vectors are taken from ``arrived``, from the copy where a template has moved, and from ``fetch`` otherwise; without it
        they are added later by ``add_lacking``. Raises Diverged where that is not possible.
        """
        removed: list[tuple[int, int]] = []
        added: dict[int, int] = {}
        for key, person in people.items():
            held = set(self.index.template_keys_of(key)) if key in self.people else set()
            wanted = set(keys_of(template_keys(person)).tolist()) if person is not None else set()
            removed += [(key, template) for template in held - wanted]
            added.update(dict.fromkeys(wanted - held, key))
        change, ids = self._change(people, removed, added, arrived, fetch)
        gone = [key for key, person in people.items() if person is None]
        left = [template for _, template in removed if template not in ids]

        def also() -> None:
            self.value = value or self.value
            for key in gone:
                self.people.pop(key, None)
            self.people.update((key, person) for key, person in people.items() if person is not None)
            for template in left:
                self.template_ids.pop(template, None)
            self.template_ids.update(ids)
            self._remember(change.new_people.tolist())

        self.index.apply(change, self.index.revision + 1, also)

    def add_lacking(self, arrived: Arrived) -> None:
        """Add templates that the copy lacks, of those that are still wanted."""
        chosen = [
            place
            for place, (key, owner) in enumerate(zip(arrived.keys.tolist(), arrived.batch.owners.tolist(), strict=True))
            if key not in self.template_ids and key in self._wanted(owner)
        ]
        keys = arrived.keys[chosen]
        change = IndexChange(template_keys=keys, owner_keys=arrived.batch.owners[chosen], vectors=arrived.batch.vectors[chosen])
        ids = dict(zip(keys.tolist(), (arrived.batch.ids[place] for place in chosen), strict=True))
        self.index.apply(change, self.index.revision + 1, lambda: self.template_ids.update(ids))

    def lacking(self) -> list[int]:
        """Keys of templates that people have and the index does not."""
        wanted = keys_of(b"".join(map(template_keys, self.people.values())))
        held, _ = self.index.contents()
        return [int(key) for key in np.setdiff1d(wanted, held)]

    def _wanted(self, owner: int) -> set[int]:
        return set(keys_of(template_keys(self.people.get(owner, bytes(20)))).tolist())

    def _change(
        self,
        people: Mapping[int, bytes | None],
        removed: list[tuple[int, int]],
        added: dict[int, int],
        arrived: Arrived,
        fetch: Fetch | None,
    ) -> tuple[IndexChange, dict[int, bytes]]:
        """The change of the index, and the ids of the templates it adds."""
        new_people = np.array(sorted(key for key, person in people.items() if person is not None and key not in self.people), np.int64)
        if len(new_people) and new_people[0] <= self.index.highest_person:
            raise Diverged
        vectors: dict[int, tuple[bytes, Floats]] = {}
        for owner in {owner for owner, template in removed if template in added}:
            keys, rows = self.index.vectors_of(owner)
            vectors.update((key, (self.template_ids[key], row)) for key, row in zip(keys.tolist(), rows, strict=True) if key in added)
        leaving = {template for _, template in removed}
        if any(template in self.template_ids and template not in leaving for template in added):
            raise Diverged
        absent = [template for template in added if template not in vectors and arrived.place(template) is None]
        for source in (arrived, fetch(absent) if absent and fetch is not None else None):
            if source is not None:
                vectors.update(
                    (key, (source.batch.ids[place], source.batch.vectors[place]))
                    for key in added
                    if key not in vectors and (place := source.place(key)) is not None
                )
        keys = np.array(sorted(vectors), np.int64)
        rows = np.array([vectors[key][1] for key in keys.tolist()], np.float32).reshape(-1, self.value.model.dimension)
        change = IndexChange(
            removed_templates=removed,
            removed_people=[key for key, person in people.items() if person is None and key in self.people],
            new_people=new_people,
            template_keys=keys,
            owner_keys=np.array([added[key] for key in keys.tolist()], np.int64),
            vectors=rows,
        )
        return change, {key: vectors[key][0] for key in keys.tolist()}

    def _remember(self, keys: Iterable[int]) -> None:
        """Let people be found by their ids."""
        added = list(keys)
        if len(self._keys.values) + len(added) > 2 * len(self.people) + 1_024:
            # Most of them are gone.
            self._hashes.truncate(0)
            self._keys.truncate(0)
            added = list(self.people)
        hashes = np.fromiter((hash(identity_id(self.people[key])) for key in added), np.int64, len(added))
        self._hashes.extend(hashes)
        self._keys.extend(np.array(added, np.int64))

"""Copying collections out of Redis: in a thread of its own, in large pieces, the next one under way while one is unpacked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from face_server.domain.identity import Collection
from face_server.gallery.redis_copy import Arrived, CollectionCopy, Diverged
from face_server.gallery.redis_layout import check_person, key_bytes, keys_of, unpack_batch
from face_server.gallery.redis_scripts import Scripts
from face_server.gallery.refusals import closed
from face_server.memory import return_freed_memory

_PIECE_BYTES = 2_000_000
_PEOPLE_AT_ONCE = 5_000
_FETCHED_AT_ONCE = 500
_HEAD_BYTES = 128
_FEW_CHANGES = 10_000

Progress = Callable[[int], None]


class Loading:
    """Reads the store through a blocking client. ``stop`` makes it end early, with Unavailable."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._client: Any = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let what runs end."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self.stop()
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def client(self) -> Any:
        """The client; opened when it is first needed."""
        if self._client is None:
            with self._scripts.connection.blocking_errors("Redis"):
                self._client = self._scripts.connection.open_blocking()
        return self._client

    def copy(self, number: bytes, value: Collection, old: CollectionCopy | None, progress: Progress) -> CollectionCopy:
        """A copy of a collection: an old one without those who are gone, or a new one with everybody."""
        people = self._people(number)
        if old is not None:
            if _renew(old, people, value):
                return old
            # Two copies at once would be twice the memory.
            old.empty()
        copy = CollectionCopy(number, value)
        copy.begin_load(people)
        place = self._key(number, "templates")
        count = max(16, _PIECE_BYTES // (4 * value.model.dimension + _HEAD_BYTES))
        for keys, records in self._scan(place, count):
            copy.load(Arrived(keys_of(b"".join(keys)), unpack_batch(records, value.model, place)))
            progress(copy.index.templates)
        copy.finish_load()
        return_freed_memory()
        return copy

    def fetch(self, copy: CollectionCopy, keys: Sequence[int]) -> Arrived:
        """Templates by key; those that are gone are left out."""
        place = self._key(copy.number, "templates")
        found: list[tuple[int, bytes]] = []
        for first in range(0, len(keys), _FETCHED_AT_ONCE):
            self._go_on()
            some = keys[first : first + _FETCHED_AT_ONCE]
            with self._scripts.connection.blocking_errors(f"the key {place}"):
                records = self.client.hmget(place, [key_bytes(key) for key in some])
            found += [(key, record) for key, record in zip(some, records, strict=True) if record is not None]
        return Arrived(
            np.array([key for key, _ in found], np.int64), unpack_batch([record for _, record in found], copy.value.model, place)
        )

    def differences(self, copy: CollectionCopy) -> int:
        """How many people and templates of the store a copy lacks, misplaces or has too many."""
        people = self._people(copy.number)
        found = len(people.items() ^ copy.people.items()) + len(people.keys() ^ set(copy.index.people().tolist()))
        place = self._key(copy.number, "templates")
        held: dict[int, tuple[int, bytes | None, bytes]] = {}
        for owner in copy.people:
            keys, vectors = copy.index.vectors_of(owner)
            held.update(
                (key, (owner, copy.template_ids.get(key), vector.tobytes())) for key, vector in zip(keys.tolist(), vectors, strict=True)
            )
        stored: dict[int, tuple[int, bytes | None, bytes]] = {}
        for packed, records in self._scan(place, _PEOPLE_AT_ONCE):
            batch = unpack_batch(records, copy.value.model, place)
            rows = batch.vectors.astype(np.float16).astype(np.float32)
            for key, owner, own_id, row in zip(keys_of(b"".join(packed)).tolist(), batch.owners.tolist(), batch.ids, rows, strict=True):
                stored[key] = (owner, own_id, row.tobytes())
        return found + len(stored.items() ^ held.items()) + len(copy.template_ids.keys() ^ stored.keys())

    def _people(self, number: bytes) -> dict[int, bytes]:
        place = self._key(number, "people")
        people: dict[int, bytes] = {}
        for keys, persons in self._scan(place, _PEOPLE_AT_ONCE):
            for person in persons:
                check_person(person, place)
            people.update(zip(keys_of(b"".join(keys)).tolist(), persons, strict=True))
        return people

    def _scan(self, place: str, count: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Fields and values of a hash; what is there all the while comes at least once."""
        with ThreadPoolExecutor(1, "gallery-fetch") as fetching, self._scripts.connection.blocking_errors(f"the key {place}"):
            ask = self.client.hscan
            cursor, found = ask(place, 0, count=count)
            while cursor:
                self._go_on()
                next_piece = fetching.submit(ask, place, cursor, count=count)
                yield list(found), list(found.values())
                cursor, found = next_piece.result()
            yield list(found), list(found.values())

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise closed()

    def _key(self, number: bytes, what: str) -> str:
        return self._scripts.key("c", number.decode(), what)


def _renew(copy: CollectionCopy, people: dict[int, bytes], value: Collection) -> bool:
    """Let an old copy be as ``people`` are, but for vectors that it lacks; whether that is possible and quicker than a new one."""
    now: dict[int, bytes | None] = {key: person for key, person in people.items() if copy.people.get(key) != person}
    now.update(dict.fromkeys(copy.people.keys() - people.keys()))
    if copy.value.model != value.model or len(now) > max(_FEW_CHANGES, len(people) // 4):
        return False
    try:
        copy.follow(now, Arrived(np.empty(0, np.int64), unpack_batch([], value.model, "")), None, value)
    except Diverged:
        return False
    return True

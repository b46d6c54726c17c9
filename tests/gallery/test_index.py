"""The index alone, without the store that would repair it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

from face_server.gallery.index import CollectionIndex, IndexChange
from face_server.gallery.matrix import PIECE_ROWS
from face_server.gallery.scoring import BEST_WEIGHT, person_scores
from face_server.gallery.shared_lock import SharedLock

DIMENSION = 16


def unit(rng: np.random.Generator, rows: int, dimension: int = DIMENSION) -> np.ndarray:
    """Random unit rows."""
    raw = rng.standard_normal((rows, dimension)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def added(
    owners: list[int] | np.ndarray, keys: list[int] | np.ndarray, vectors: np.ndarray, people: list[int] | None = None
) -> IndexChange:
    """A change that adds."""
    keys = np.array(keys, np.int64)
    return IndexChange(
        new_people=np.array(people or [], np.int64), template_keys=keys, owner_keys=np.array(owners, np.int64), vectors=vectors
    )


def brute_force(people: dict[int, dict[int, np.ndarray]], probe: np.ndarray) -> list[tuple[float, int, int]]:
    """Negated score, person, nearest template; best first."""
    ranked = []
    for person, templates in people.items():
        if templates:
            rows = np.array(list(templates.values())).astype(np.float16).astype(np.float64)
            similarities, total = rows @ probe, rows.sum(0)
            score = BEST_WEIGHT * similarities.max() + (1 - BEST_WEIGHT) * (total @ probe) / np.linalg.norm(total)
            ranked.append((-score, person, list(templates)[int(similarities.argmax())]))
    return sorted(ranked)


def test_a_long_history_leaves_the_right_rows() -> None:
    """Thousands of random changes: the same rows and the same answers as a plain dictionary."""
    rng, index = np.random.default_rng(1), CollectionIndex(DIMENSION)
    people: dict[int, dict[int, np.ndarray]] = {}
    person_keys, template_keys = count(1), count(1)
    for revision in range(2_000):
        kind = rng.integers(6)
        some = [int(one) for one in rng.choice(list(people), 2)] if people else []
        if kind <= 1 or len(people) < 2:
            key = next(person_keys)
            people[key] = dict(zip(template_keys, unit(rng, int(rng.integers(0, 4))), strict=False))
            change = added([key] * len(people[key]), list(people[key]), _stacked(people[key]), [key])
        elif kind == 2:
            more = dict(zip(template_keys, unit(rng, 3), strict=False))
            people[some[0]] |= more
            change = added([some[0]] * len(more), list(more), _stacked(more))
        elif kind == 3 and people[some[0]]:
            gone = int(rng.choice(list(people[some[0]])))
            del people[some[0]][gone]
            change = IndexChange(removed_templates=[(some[0], gone)])
        elif kind == 4:
            change = IndexChange(removed_templates=[(some[0], one) for one in people.pop(some[0])], removed_people=[some[0]])
        elif some[0] != some[1]:
            moved = people.pop(some[0])
            people[some[1]] |= moved
            into = added([some[1]] * len(moved), list(moved), _stacked(moved))
            removed = [(some[0], one) for one in moved]
            change = IndexChange(removed, [some[0]], into.new_people, into.template_keys, into.owner_keys, into.vectors)
        else:
            change = IndexChange()
        index.apply(change, revision)
        if revision % 40 == 0:
            _check(index, people, unit(rng, 1)[0], int(rng.integers(1, 8)))
    assert index.revision == 1_999


def test_many_removed_people_leave_no_trace() -> None:
    """Bookkeeping shrinks when most people are gone, and the rest are found as before."""
    rng, index = np.random.default_rng(2), CollectionIndex(DIMENSION)
    vectors = unit(rng, 6_000)
    keys = np.arange(1, 6_001)
    index.apply(IndexChange(new_people=keys, template_keys=keys * 10, owner_keys=keys, vectors=vectors), 1)
    before = index.nbytes
    gone = [int(key) for key in keys if key % 6]
    index.apply(IndexChange([(key, key * 10) for key in gone], gone), 2)
    assert index.people().tolist() == list(range(6, 6_001, 6))
    assert index.nbytes < before
    found = index.search(vectors[5:6], 1)[0][0]
    assert (found.person_key, found.template_key) == (6, 60)
    with pytest.raises(KeyError):
        index.apply(IndexChange([(7, 70)]), 3)
    with pytest.raises(ValueError, match="above"):
        index.apply(IndexChange(new_people=np.array([3])), 3)


@pytest.mark.parametrize("rows", [1, 2, 3, PIECE_ROWS + 5_001, 2 * PIECE_ROWS, 2 * PIECE_ROWS + 1, 3 * PIECE_ROWS + 5_000])
def test_pieces_are_searched_as_one(rows: int) -> None:
    """Collections of any number of pieces give the same answers with one thread, with two, and by brute force."""
    rng, index = np.random.default_rng(3), CollectionIndex(8)
    vectors, keys = unit(rng, rows, 8), np.arange(1, rows + 1)
    index.load(IndexChange(new_people=keys, template_keys=keys, owner_keys=keys, vectors=vectors))
    index.finish_load(7)
    probes = unit(rng, 3, 8)
    stored = vectors.astype(np.float16).astype(np.float64)
    exact = (BEST_WEIGHT + (1 - BEST_WEIGHT) / np.linalg.norm(stored, axis=1))[:, None] * (stored @ probes.T)
    with ThreadPoolExecutor(2) as executor:
        together = index.search(probes, 5, executor)
    assert together == index.search(probes, 5)
    for answer, similarities in zip(together, exact.T, strict=True):
        best = np.argsort(-similarities)[:5]
        assert [one.person_key for one in answer[:5]] == (best + 1).tolist()
        assert len(answer) >= min(5, rows)
        assert np.allclose([one.similarity for one in answer[:5]], similarities[best], atol=2e-6)


def test_rows_cost_little_more_than_the_matrix() -> None:
    """Vectors and bookkeeping stay within 1.3 of two bytes a value, one template a person, at awkward sizes."""
    rng = np.random.default_rng(4)
    for rows in (20_000, PIECE_ROWS + 1, 2 * PIECE_ROWS + 1, 2 * PIECE_ROWS + 30_000):
        index, vectors = CollectionIndex(128), unit(rng, 1_000, 128)
        for first in range(0, rows, 1_000):
            keys = np.arange(first, min(rows, first + 1_000)) + 1
            change = IndexChange(new_people=keys, template_keys=keys, owner_keys=keys, vectors=vectors[: len(keys)])
            index.apply(change, 1)
        assert index.templates == rows
        assert index.nbytes <= 1.3 * rows * 128 * 2


def test_loose_people_are_scored_always() -> None:
    """Somebody whose templates point everywhere is found by their mean behind any crowd of nearer templates."""
    rng, index = np.random.default_rng(5), CollectionIndex(DIMENSION)
    probe = unit(rng, 1)[0]
    across = unit(rng, 40)
    across -= np.outer(across @ probe, probe)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    tilt = 0.08
    loose = np.concatenate([tilt * probe + np.sqrt(1 - tilt**2) * across, tilt * probe - np.sqrt(1 - tilt**2) * across]).astype(np.float32)
    crowd = unit(rng, 5_000)
    crowd -= np.outer(crowd @ probe, probe)
    crowd = 0.2 * probe + np.sqrt(0.96) * crowd / np.linalg.norm(crowd, axis=1, keepdims=True)
    keys = list(range(1, 5_002))
    owners = [1] * len(loose) + keys[1:]
    vectors = np.concatenate([loose, crowd.astype(np.float32)])
    index.apply(added(owners, list(range(1, len(vectors) + 1)), vectors, keys), 1)
    assert index.search(probe[None], 1)[0][0].person_key == 1


def test_the_lock_is_shared_or_exclusive() -> None:
    """Readers come in together; a writer waits for them, and who comes after it waits for the writer."""
    lock, order = SharedLock(), []
    both_reading = threading.Barrier(3, timeout=20)

    def read() -> None:
        with lock.shared():
            both_reading.wait()
            time.sleep(0.1)
            order.append("read")

    def write() -> None:
        with lock.exclusive():
            order.append("write begins")
            time.sleep(0.05)
            order.append("write ends")

    with ThreadPoolExecutor(5) as executor:
        jobs = [executor.submit(read), executor.submit(read)]
        both_reading.wait()
        jobs += [executor.submit(write), executor.submit(write)]
        for job in jobs:
            job.result(20)
    assert order == ["read", "read", "write begins", "write ends", "write begins", "write ends"]


def test_scores_by_hand() -> None:
    """Two people, one of two templates at a right angle: half the best and half the mean."""
    scores = person_scores(np.array([0.6, 0.8, 0.5], np.float32), np.array([0, 2]), np.array([np.sqrt(2), 1], np.float32))
    expected = [BEST_WEIGHT * 0.8 + (1 - BEST_WEIGHT) * 1.4 / np.sqrt(2), 0.5]
    assert scores == pytest.approx(expected, abs=1e-6)


def _stacked(templates: dict[int, np.ndarray]) -> np.ndarray:
    return np.array(list(templates.values()), np.float32).reshape(-1, DIMENSION)


def _check(index: CollectionIndex, people: dict[int, dict[int, np.ndarray]], probe: np.ndarray, limit: int) -> None:
    with index.lock.shared():
        answer = index.search(probe[None], limit)[0]
    expected = brute_force(people, probe)[:limit]
    assert [(one.person_key, one.template_key) for one in answer] == [(person, template) for _, person, template in expected]
    assert np.allclose([-one.similarity for one in answer], [score for score, _, _ in expected], atol=2e-6)
    keys, owners = index.contents()
    stored = {int(key): (int(owner), row) for key, owner, row in zip(keys, owners, index.vectors(np.arange(len(keys))), strict=True)}
    wanted = {key: (person, vector) for person, templates in people.items() for key, vector in templates.items()}
    assert stored.keys() == wanted.keys()
    for key, (person, vector) in wanted.items():
        assert stored[key][0] == person
        assert np.array_equal(stored[key][1], vector.astype(np.float16).astype(np.float32))

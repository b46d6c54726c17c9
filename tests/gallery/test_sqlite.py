"""What is special about a gallery in a SQLite file: the file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import (
    AddTemplate,
    Change,
    Collection,
    Identity,
    MergeIdentities,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    Template,
    TemplateRecord,
)
from face_server.errors import ConfigurationError, Overloaded, Unavailable
from face_server.gallery.index import CollectionIndex, IndexChange
from face_server.gallery.indexes import Indexes
from face_server.gallery.sqlite import SqliteGallery, SqliteOptions
from face_server.sqlite_file import connect
from face_server.workers import Workers

MODEL = ModelId("toy", "00", 1, 128)


def vector(seed: int) -> np.ndarray:
    """A unit vector."""
    raw = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    return raw / np.linalg.norm(raw)


def crop(seed: int) -> bytes:
    """Bytes that stand for a crop; no two alike."""
    return b"crop" + np.random.default_rng(seed).bytes(5_000)


def person(name: str, *seeds: int) -> list[Change]:
    """The changes that enrol somebody with crops."""
    records = [TemplateRecord(Template(f"t{seed}", name, 0.5, 0.0), Embedding(vector(seed), 1.0, MODEL), crop(seed)) for seed in seeds]
    return [PutIdentity(Identity(name, f"name of {name}")), *map(AddTemplate, records)]


def probe(seed: int) -> Embeddings:
    """One probe."""
    return Embeddings(vector(seed)[None], np.ones(1, np.float32), MODEL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the gallery lies."""
    return tmp_path / "data" / "gallery.sqlite3"


@pytest.fixture
async def gallery(path: Path, workers: Workers) -> AsyncIterator[SqliteGallery]:
    """A gallery with the collection "all"."""
    opened = await SqliteGallery.open(path, workers, FakeClock())
    await opened.create_collection(Collection("all", MODEL))
    yield opened
    await opened.close()


def on_disk(path: Path, needle: bytes) -> bool:
    """Whether any file of the gallery holds these bytes."""
    return any(needle in file.read_bytes() for file in path.parent.iterdir())


def traces(path: Path, seeds: list[int]) -> list[int]:
    """Of which templates any piece of vector or crop is on disk."""
    files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    pieces = {seed: [vector(seed).tobytes(), crop(seed)] for seed in seeds}
    return [seed for seed, data in pieces.items() if any(one[at : at + 24] in files for one in data for at in range(0, len(one) - 24, 100))]


async def test_erased_vectors_and_crops_are_gone_from_disk(gallery: SqliteGallery, path: Path) -> None:
    """When an erasure is acknowledged, no byte of what it erased is left in any file; the rest is."""
    for number in range(40):
        await gallery.apply("all", person(f"p{number}", *range(number * 5, number * 5 + 5)))
    assert traces(path, list(range(200))) == list(range(200))
    await gallery.apply("all", [RemoveTemplate("t0"), RemoveTemplate("t199")])
    assert traces(path, [0, 199]) == []
    assert on_disk(path, b"name of p3{}")
    await gallery.apply("all", [MergeIdentities("p1", "p2"), RemoveIdentity("p3"), RemoveIdentity("p20")])
    gone = {0, 199, *range(15, 20), *range(100, 105)}
    assert set(traces(path, list(range(200)))) == set(range(200)) - gone
    assert not on_disk(path, b"name of p3{}")
    await gallery.update_collection(Collection("all", MODEL, keep_crops=False))
    assert not on_disk(path, crop(50)[100:130])
    assert on_disk(path, vector(50).tobytes())
    await gallery.drop_collection("all")
    assert traces(path, list(range(200))) == []


async def test_erasing_catches_up_when_another_process_reads(gallery: SqliteGallery, path: Path) -> None:
    """A long reader elsewhere delays the cleaning of the log, which happens once it is gone."""
    await gallery.close()
    with Workers(2) as pool:
        hurried = await SqliteGallery.open(path, pool, FakeClock(), SqliteOptions(busy_timeout_s=0.05))
        await hurried.apply("all", person("ada", 1))
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM templates").fetchone()
        await hurried.apply("all", [RemoveIdentity("ada")])
        assert await hurried.identities("all") == []
        reader.close()
        for _ in range(100):
            if not traces(path, [1]):
                break
            await asyncio.sleep(0.1)
        assert traces(path, [1]) == []
        await hurried.close()


async def test_the_file_is_for_its_owner_only(gallery: SqliteGallery, path: Path) -> None:
    """Nobody else may read faces."""
    await gallery.apply("all", person("ada", 1))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


async def test_a_newer_file_is_refused(gallery: SqliteGallery, path: Path, workers: Workers) -> None:
    """A file of a later version is left alone, with a sentence that names both versions."""
    await gallery.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"version 99.*up to 1"):
        await SqliteGallery.open(path, workers, FakeClock())
    assert path.read_bytes() == before


async def test_a_foreign_database_is_refused(path: Path, workers: Workers) -> None:
    """Somebody else's SQLite file is not written to."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    connection.close()
    with pytest.raises(ConfigurationError, match="not a gallery"):
        await SqliteGallery.open(path, workers, FakeClock())


@pytest.mark.parametrize("damage", ["text", "header", "middle", "vector", "cut"])
async def test_a_damaged_file_says_so(gallery: SqliteGallery, path: Path, workers: Workers, damage: str) -> None:
    """No damage that touches the vectors' pages goes unnoticed or ends in a traceback."""
    await gallery.apply("all", [change for number in range(60) for change in person(f"p{number}", number)])
    await gallery.close()
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"These are my notes. " * 500)
    elif damage == "header":
        data[:40] = bytes(40)
    elif damage == "middle":
        data[4096 : 4096 * 40] = os.urandom(4096 * 39)
    elif damage == "vector":
        place = data.index(vector(30).tobytes())
        data[place : place + 512] = np.full(128, np.nan, np.float32).tobytes()
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    with pytest.raises(Unavailable, match=r"damaged|no database") as caught:
        await SqliteGallery.open(path, workers, FakeClock())
    assert caught.value.code == "storage_corrupt"


async def test_a_full_disk_changes_nothing(path: Path, workers: Workers) -> None:
    """At the size limit writes fail with a sentence, together or alone; reading and searching go on."""
    gallery = await SqliteGallery.open(path, workers, FakeClock(), SqliteOptions(max_bytes=400_000))
    await gallery.create_collection(Collection("all", MODEL))
    await gallery.apply("all", person("ada", 1))
    with pytest.raises(Unavailable, match="full") as caught:
        await gallery.apply("all", person("bob", *range(100, 300)))
    assert caught.value.code == "storage_full"
    assert [one.id for one in await gallery.identities("all")] == ["ada"]
    ((candidate,),) = await gallery.search("all", probe(1), limit=5)
    assert candidate.identity.id == "ada"
    await gallery.apply("all", person("cy", 2))
    assert await gallery.index_differences() == 0
    await gallery.close()


async def test_a_folder_that_may_not_be_written_says_so(workers: Workers) -> None:
    """No permission is one sentence, when opening and when writing."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        gallery = await SqliteGallery.open(folder / "gallery.sqlite3", workers, FakeClock())
        await gallery.close()
        with pytest.raises(Unavailable) as caught:
            await _as_nobody(folder / "gallery.sqlite3", workers)
        assert caught.value.message.startswith("gallery.sqlite3 cannot")
        with pytest.raises(Unavailable):
            await _as_nobody(folder / "new" / "gallery.sqlite3", workers)


async def test_a_locked_file_says_so(gallery: SqliteGallery, path: Path, workers: Workers) -> None:
    """When another process holds the file too long, a write is refused, may be tried again, and then works."""
    hurried = await SqliteGallery.open(path, workers, FakeClock(), SqliteOptions(busy_timeout_s=0.05))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked") as caught:
        await hurried.apply("all", person("ada", 1))
    assert caught.value.retry_after_s <= 1
    other.close()
    await hurried.apply("all", person("ada", 1))
    await hurried.close()


async def test_changes_that_wait_are_bounded(path: Path, workers: Workers) -> None:
    """Beyond the limit of waiting changes more are refused at once; those that wait are made."""
    gallery = await SqliteGallery.open(path, workers, FakeClock(), SqliteOptions(max_pending_writes=4))
    await gallery.create_collection(Collection("all", MODEL))
    calls = (gallery.apply("all", person(f"p{number}", number)) for number in range(400))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, Overloaded)]
    assert refused
    assert all(one is None or isinstance(one, Overloaded) for one in outcomes)
    assert (await gallery.collection("all")).identities == 400 - len(refused)
    await gallery.close()


async def test_a_cancelled_change_harms_nothing(gallery: SqliteGallery) -> None:
    """A caller that goes away leaves the change made or not made, never the writer stuck."""
    tasks = [asyncio.create_task(gallery.apply("all", person(f"p{number}", number))) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await gallery.apply("all", person("last", 99))
    people = {one.id: one.templates for one in await gallery.identities("all")}
    assert {f"p{number}" for number in range(1, 20, 2)} | {"last"} <= people.keys()
    assert set(people.values()) == {1}
    assert await gallery.index_differences() == 0


async def test_nothing_blocks_the_event_loop(path: Path, workers: Workers) -> None:
    """Opening, writing, searching, reading and closing touch files in other threads only."""
    with blockbuster_ctx():
        gallery = await SqliteGallery.open(path, workers, FakeClock())
        await gallery.create_collection(Collection("all", MODEL))
        await gallery.apply("all", person("ada", 1, 2))
        await gallery.search("all", probe(1), limit=3)
        await gallery.compare("all", "ada", probe(1))
        await gallery.records("all")
        await gallery.identity("all", "ada")
        await gallery.apply("all", [RemoveIdentity("ada")])
        await gallery.drop_collection("all")
        await gallery.close()


async def test_an_index_far_behind_is_loaded_anew(gallery: SqliteGallery, path: Path, workers: Workers) -> None:
    """Beyond the revisions that the file remembers, the next search loads the whole collection and is right."""
    other = await SqliteGallery.open(path, workers, FakeClock())
    await gallery.apply("all", person("ada", 1))
    for seed in range(2, 270):
        await gallery.apply("all", person("ada", seed))
    ((candidate,),) = await other.search("all", probe(269), limit=1)
    assert (candidate.template_id, candidate.identity.templates) == ("t269", 269)
    assert await other.index_differences() == 0
    await other.close()


class _FailingIndex(CollectionIndex):
    """An index whose memory runs out half-way through its third change."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.changes = 0

    def apply(self, change: IndexChange, revision: int) -> None:
        """Fail after the removals."""
        self.changes += 1
        if self.changes == 3:
            super().apply(IndexChange(change.removed_templates), self.revision)
            raise MemoryError
        super().apply(change, revision)


async def test_an_index_that_fails_is_built_anew(gallery: SqliteGallery, path: Path) -> None:
    """The store is the truth: after a failure in the middle of a change the index is a copy of it again."""
    writing, indexes = connect(path, busy_timeout_s=1, writable=True), Indexes(_FailingIndex)
    indexes.load(writing)
    broken = indexes.get(1)
    for changes in (person("ada", 1, 2), person("bob", 3), [RemoveTemplate("t1"), *person("cy", 4)], person("dan", 5)):
        await gallery.apply("all", changes)
        indexes.follow(writing, 1)
        assert indexes.differences(writing) == 0
    assert indexes.get(1) is not broken
    writing.close()


async def _as_nobody(path: Path, workers: Workers) -> None:
    """Open a gallery without the rights of root, which permissions do not bind."""
    nobody = 65_534
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(nobody)
    else:
        path.parent.chmod(0o500)
    try:
        gallery = await SqliteGallery.open(path, workers, FakeClock())
        await gallery.close()
    finally:
        if was_root:
            os.seteuid(0)

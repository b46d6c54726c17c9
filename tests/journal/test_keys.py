"""API keys in a file; what every key ring does is in the contract."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock
from face_server.domain.access import KeyRing, Role
from face_server.errors import ConfigurationError, Unavailable
from face_server.journal.keys import SqliteKeyRing

HOUR_S = 3_600.0


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the keys lie."""
    return tmp_path / "data" / "keys.sqlite3"


@pytest.fixture
async def ring(path: Path, clock: FakeClock) -> AsyncIterator[KeyRing]:
    """An empty key ring."""
    opened = await SqliteKeyRing.open(path, clock)
    yield opened
    await opened.close()


async def test_secrets_are_long_and_not_stored(ring: KeyRing, path: Path) -> None:
    """256 random bits behind fsk_ and the id; the files hold the sha256 and nothing of the secret."""
    made = [await ring.create(Role.READ, f"key {number}") for number in range(20)]
    assert all(re.fullmatch(rf"fsk_{key.id}_[A-Za-z0-9_-]{{43}}", secret) for key, secret in made)
    assert len({secret[-43:] for _, secret in made}) == 20
    files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for _, secret in made:
        assert hashlib.sha256(secret.encode()).digest() in files
        assert secret[-43:].encode() not in files
        assert secret[-43:-23].encode() not in files


async def test_between_looks_no_file_is_touched(ring: KeyRing, path: Path) -> None:
    """A thousand requests within the second are answered from memory, even when the file is locked."""
    _, secret = await ring.create(Role.READ, "busy")
    await ring.authenticate(secret)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with blockbuster_ctx():
        assert all([await ring.authenticate(secret) for _ in range(1_000)])
    other.close()


async def test_the_file_of_a_gallery_is_no_key_ring(path: Path, clock: FakeClock) -> None:
    """A wrong or damaged file is a sentence at start."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE templates (id TEXT)")
    connection.close()
    with pytest.raises(ConfigurationError, match="not a key ring"):
        await SqliteKeyRing.open(path, clock)
    path.write_bytes(b"notes" * 1_000)
    with pytest.raises(Unavailable, match="damaged"):
        await SqliteKeyRing.open(path, clock)

"""Where `face-server migrate` moves from and to: a data folder or a Redis, opened whole."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote

from face_server.app_state import redis_options
from face_server.errors import ConfigurationError, Conflict, NotFound
from face_server.gallery.redis import RedisGallery
from face_server.gallery.sqlite import SqliteGallery
from face_server.journal.keys import SqliteKeyRing
from face_server.journal.redis import RedisJournal
from face_server.journal.redis_keys import RedisKeyRing
from face_server.journal.sealing import KEY_BYTES, Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.pipeline.migration import UNBOUNDED, Side, StandingClock
from face_server.redis_connection import Connection, RedisOptions, open_redis, parse_address
from face_server.settings import Settings
from face_server.sqlite_file import storage_errors
from face_server.streams.redis_ownership import count_replicas
from face_server.workers import Workers

Opening = TypeVar("Opening")

_BUSY_S = 0.5
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_VARIABLE = "FACE_SERVER_STREAMS__SECRET_KEY"


class Mark(Protocol):
    """A note at the target: a migration into it has begun and not ended. Whoever made it may go on."""

    async def read(self) -> str:
        """What it came from; "" without a note."""
        ...

    async def write(self, source: str) -> None:
        """Leave the note."""
        ...

    async def clear(self) -> None:
        """Take it away."""
        ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A data folder."""

    settings: Settings

    @property
    def name(self) -> str:
        """What it is called in messages, and recognised by."""
        return f"sqlite:{self.settings.data.resolve()}"


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A namespace of a Redis."""

    options: RedisOptions

    @property
    def name(self) -> str:
        """What it is called in messages, and recognised by; without password."""
        return f"{parse_address(self.options.url)} namespace {self.options.namespace!r}"


Place = FolderPlace | RedisPlace


def place_of(text: str, settings: Settings, namespace: str | None) -> Place:
    """What FROM or TO means. Raises ConfigurationError."""
    if text == "redis" and not settings.state.shared:
        raise ConfigurationError("`redis` stands for the Redis of FACE_SERVER_STATE__REDIS_URL, which is not set")
    if text == "redis" or "://" in text:
        options = redis_options(settings)
        url = options.url if text == "redis" else text
        parse_address(url)
        chosen = RedisOptions(url, namespace or options.namespace, ca_file=options.ca_file, wait_replicas=options.wait_replicas)
        return RedisPlace(chosen)
    folder = Path(text.removeprefix("sqlite:")).expanduser()
    return FolderPlace(settings.model_copy(update={"data": folder}))


@dataclass(frozen=True, slots=True)
class Opened:
    """A place that is open. ``keyless`` says that no key was found which addresses of cameras could be sealed with."""

    side: Side
    mark: Mark
    keyless: bool


@asynccontextmanager
async def open_place(
    place: Place, other: Place, settings: Settings, workers: Workers, clock: StandingClock, *, new: bool
) -> AsyncIterator[Opened]:
    """Open everything that a place keeps; a ``new`` one is made where nothing is.

    Raises NotFound where nothing is, Conflict while a server works with it, ConfigurationError for a newer layout or
    another key, Unavailable for what is away or damaged.
    """
    async with AsyncExitStack() as stack:
        if isinstance(place, FolderPlace) and not new and not place.settings.gallery_file.is_file():
            raise NotFound(f"there is no gallery in {place.settings.data}", field="from")
        if isinstance(place, FolderPlace) and new:
            await workers.run(_make_folder, place.settings.data)
        sealers = await workers.run(_sealers, place, other, settings, new)
        keys = sealers or [Sealer(os.urandom(KEY_BYTES), origin=f"a key made up because {_VARIABLE} is not set")]
        if isinstance(place, FolderPlace):
            side = await _open_folder(place, keys, workers, clock, stack, new=new)
            yield Opened(side, FileMark(place.settings.data / "migration", workers), not sealers)
        else:
            options = place.options if new else replace(place.options, wait_replicas=0)
            connection = await open_redis(options)
            stack.push_async_callback(connection.close)
            side = await _open_redis(place, connection, keys, workers, clock, stack, new=new)
            yield Opened(side, RedisMark(connection), not sealers)


async def _open_folder(
    place: FolderPlace, sealers: list[Sealer], workers: Workers, clock: StandingClock, stack: AsyncExitStack, *, new: bool
) -> Side:
    """Files that a source does not have are not made."""
    own = place.settings
    for file in (own.gallery_file, own.journal_file, own.keys_file):
        if file.is_file():
            await workers.run(_refuse_in_use, file)
    gallery = await SqliteGallery.open(own.gallery_file, workers, clock)
    stack.push_async_callback(gallery.close)
    journal = keys = None
    if new or own.journal_file.is_file():
        journal = await _first_that_fits(sealers, lambda sealer: SqliteJournal.open(own.journal_file, clock, sealer, UNBOUNDED))
        stack.push_async_callback(journal.close)
    if new or own.keys_file.is_file():
        keys = await SqliteKeyRing.open(own.keys_file, clock)
        stack.push_async_callback(keys.close)
    return Side(place.name, gallery, journal, keys, list)


async def _open_redis(
    place: RedisPlace,
    connection: Connection,
    sealers: list[Sealer],
    workers: Workers,
    clock: StandingClock,
    stack: AsyncExitStack,
    *,
    new: bool,
) -> Side:
    async with connection.errors("Redis"):
        found = await connection.client.exists(connection.key("gallery", "layout"))
    if not found and not new:
        raise NotFound(f"there is no gallery at {place.name}", field="from")
    if running := await count_replicas(connection):
        raise Conflict(f"face servers are running with {place.name} ({running} now); stop them, then try again", code="server_running")
    gallery = await RedisGallery.open(connection, workers, clock)
    stack.push_async_callback(gallery.close)
    journal = await _first_that_fits(sealers, lambda sealer: RedisJournal.open(connection, clock, sealer, UNBOUNDED, workers))
    stack.push_async_callback(journal.close)
    keys = await RedisKeyRing.open(connection, clock)
    stack.push_async_callback(keys.close)
    return Side(place.name, gallery, journal, keys, lambda: [*journal.damage, *keys.damage])


async def _first_that_fits(sealers: list[Sealer], opened: Callable[[Sealer], Awaitable[Opening]]) -> Opening:
    """A journal, by the first key that opens it. Raises what the first one raises."""
    failure: ConfigurationError | None = None
    for sealer in sealers:
        try:
            return await opened(sealer)
        except ConfigurationError as error:
            failure = failure or error
    raise failure or ConfigurationError("there is no key to try")


def _sealers(place: Place, other: Place, settings: Settings, new: bool) -> list[Sealer]:
    """The keys that a place may be sealed with, the likeliest first. Makes one where a new folder needs it."""
    text = settings.streams.secret_key.get_secret_value()
    found = [Sealer.from_text(text, origin=_VARIABLE)] if text else []
    if isinstance(place, FolderPlace):
        if place.settings.secret_file.is_file() or (new and not found):
            found.append(Sealer.from_file(place.settings.secret_file))
        return found
    # The server that takes its folder along to Redis goes on using the key in it.
    folders = [other.settings.secret_file] if isinstance(other, FolderPlace) else []
    files = dict.fromkeys([*folders, settings.secret_file])
    return found + [Sealer.from_file(file) for file in files if file.is_file()]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _refuse_in_use(file: Path) -> None:
    """Raise Conflict if another process has the file open.

    Whoever has a database in WAL mode open keeps a lock on it, even when idle; to own it alone is therefore impossible then.
    """
    address = f"file:{quote(str(file.resolve()))}?mode=rw"
    with storage_errors(file), contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY:
                raise
            raise Conflict(
                f"{file} is in use by another process; stop the face server there, then try again", code="server_running"
            ) from error


class FileMark:
    """The note in a data folder."""

    def __init__(self, path: Path, workers: Workers) -> None:
        self._path = path
        self._workers = workers

    async def read(self) -> str:
        """What it came from; "" without a note."""
        return await self._workers.run(self._read)

    async def write(self, source: str) -> None:
        """Leave the note, at once and whole."""
        await self._workers.run(self._write, source)

    async def clear(self) -> None:
        """Take it away."""
        await self._workers.run(lambda: self._path.unlink(missing_ok=True))

    def _read(self) -> str:
        return self._path.read_text("utf-8").strip() if self._path.is_file() else ""

    def _write(self, source: str) -> None:
        draft = self._path.with_name(f".{self._path.name}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{source}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


class RedisMark:
    """The note in a namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._key = connection.key("migration")

    async def read(self) -> str:
        """What it came from; "" without a note."""
        async with self._connection.errors(f"the key {self._key}", at_start=True):
            found = await self._connection.client.get(self._key)
        return found.decode("utf-8", "replace") if found else ""

    async def write(self, source: str) -> None:
        """Leave the note."""
        async with self._connection.errors(f"the key {self._key}"):
            await self._connection.client.set(self._key, source)

    async def clear(self) -> None:
        """Take it away."""
        async with self._connection.errors(f"the key {self._key}"):
            await self._connection.client.delete(self._key)

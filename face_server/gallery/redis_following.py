"""Keeps a replica's copies equal to the store: follows its log, and notices when the log does not lead to what is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from face_server.domain.identity import Collection
from face_server.domain.ports import Clock, Freshness
from face_server.errors import FaceServerError, Unavailable
from face_server.gallery.redis_copy import Arrived, CollectionCopy
from face_server.gallery.redis_layout import AREA, VERSION, check_person, keys_of, unpack_batch, unpack_settings
from face_server.gallery.redis_loading import Loading
from face_server.gallery.redis_scripts import Scripts
from face_server.gallery.refusals import closed, collection_missing

P = ParamSpec("P")
T = TypeVar("T")

_TEMPLATES_AT_ONCE = 4_096
_FILLED_AT_ONCE = 1_000
_SHORTEST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """How closely the store is followed.

    The store is asked every ``check_s``; when it was not heard of for ``stale_after_s``, the copies are called stale; an
    answer may take ``patience_s``.
    """

    check_s: float = 0.1
    stale_after_s: float = 0.2
    patience_s: float = 2.5


@dataclass(frozen=True, slots=True)
class _Position:
    """Up to where of which history the copies are: the last entry of the log, and its token."""

    epoch: bytes = b""
    revision: int = -1
    token: bytes = b""


class Follower:
    """One task that follows, and one thread that changes the copies.

    A copy is trusted while the log leads from it to the store's present state. Where it does not (the log was cut, the
    store was emptied or restored, an older replica was made master) nobody is named until those who are gone have been
    taken out, which needs the list of people but not their vectors.
    """

    def __init__(self, scripts: Scripts, clock: Clock, options: FollowOptions) -> None:
        self._scripts = scripts
        self._clock = clock
        self._options = options
        self._loading = Loading(scripts)
        self._thread = ThreadPoolExecutor(1, "gallery-follow")
        self._lock = asyncio.Lock()
        self._position = _Position()
        self._named: dict[str, CollectionCopy] = {}
        self._whole = False
        self._lacking: list[tuple[CollectionCopy, list[int]]] = []
        self._proved_at: float | None = None
        self._trouble: FaceServerError | None = None
        self._progress = (0, 0)
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    # What the gallery asks

    @property
    def freshness(self) -> Freshness:
        """Whether the copies were equal to the store a moment ago."""
        silent_s = float("inf") if self._proved_at is None else time.monotonic() - self._proved_at
        loaded, total = self._progress
        if self._whole and not self._lacking and silent_s <= self._options.stale_after_s:
            return Freshness(current=True, loaded=loaded, total=total)
        since = None if self._proved_at is None else self._clock.now() - silent_s
        return Freshness(False, since, self._reason(), loaded, total)

    def copies(self) -> list[CollectionCopy]:
        """All copies. Raises Unavailable while they are not whole."""
        self._require_whole()
        return list(self._named.values())

    def copy(self, name: str) -> CollectionCopy:
        """The copy of a collection. Raises NotFound, or Unavailable while it cannot be trusted."""
        copy = self._named.get(name)
        if copy is None or not copy.trusted:
            self._require_whole()
            raise collection_missing(name)
        return copy

    def require_store(self) -> None:
        """Fail at once where the store is known to be away."""
        if self._task is None:
            raise closed()
        if self._trouble is not None:
            raise Unavailable(self._trouble.message, code=self._trouble.code, retry_after_s=self._options.patience_s)
        self._require_whole()

    # Life

    async def start(self, *, wait: bool) -> None:
        """Begin to follow; with ``wait`` until the copies are whole. Raises what keeps them from it."""
        self._task = asyncio.create_task(self._run(), name="gallery-follow")
        if wait:
            await self._first.wait()
            if not self._whole and self._trouble is not None:
                raise self._trouble

    async def close(self) -> None:
        """Follow no more. Idempotent."""
        task, self._task = self._task, None
        self._loading.stop()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._thread.shutdown()
        self._loading.close()

    async def catch_up(self) -> None:
        """Return when the copies have everything that was in the store at the time of the call."""
        called_at = time.monotonic()
        async with self._lock:
            if self._proved_at is None or self._proved_at < called_at:
                await self._to_the_end()

    async def differences(self) -> int:
        """How many people and templates the copies hold otherwise than the store; while nobody writes to it."""
        async with self._lock:
            await self._to_the_end()
            return await self._do(self._differences)

    # Following

    async def _run(self) -> None:
        pause_s = _SHORTEST_PAUSE_S
        # A library that loses a cancellation must not keep this going: hence the question.
        while self._task is not None:
            try:
                await self._follow()
            except FaceServerError as error:
                pause_s = self._lost(error, pause_s)
            except Exception as error:  # noqa: BLE001 - the replica must follow whatever happened; it goes on with a new connection
                _log.exception("the gallery could not follow Redis")
                pause_s = self._lost(Unavailable(f"the gallery cannot follow Redis ({type(error).__name__})"), pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _follow(self) -> None:
        """Follow until something goes wrong; on a connection of its own, because it blocks there."""
        connection, options = self._scripts.connection, self._options
        client = connection.open_client(socket_timeout=options.check_s + options.patience_s)
        try:
            await self.catch_up()
            while self._task is not None:
                wait_ms = 1 if self._lacking else max(1, int(options.check_s * 1_000))
                async with connection.errors(f"the key {self._scripts.key('log')}"):
                    start = f"{max(0, self._position.revision)}-0"
                    entries = await client.xread({self._scripts.key("log"): start}, count=1, block=wait_ms)
                    asked_at, before = time.monotonic(), self._position
                    state = None if entries else await client.hmget(self._scripts.state, "epoch", "revision", "token")
                if state == [before.epoch, str(before.revision).encode(), before.token] and self._position == before:
                    self._proved_at = max(asked_at, self._proved_at or 0.0)
                elif state is not None or self._position.revision <= before.revision:
                    await self.catch_up()
                if self._lacking:
                    await self._fill()
        finally:
            await client.aclose()

    def _found(self) -> None:
        """The store is there."""
        if self._trouble is not None:
            _log.warning("the gallery follows Redis again")
        self._trouble = None
        self._first.set()

    def _lost(self, error: FaceServerError, pause_s: float) -> float:
        """The store is not there, or not as it should be. The pause before the next try."""
        if self._trouble is None or self._trouble.message != error.message:
            _log.warning("the gallery does not follow Redis: %s", error)
            pause_s = _SHORTEST_PAUSE_S
        self._trouble = error
        self._first.set()
        return pause_s

    async def _to_the_end(self) -> None:
        """Follow the log to its end, whatever it takes. The lock is held."""
        while True:
            asked_at = time.monotonic()
            known = self._position
            reply = await self._scripts.call("follow", known.epoch, known.revision, known.token, _TEMPLATES_AT_ONCE)
            if reply[0] in (b"empty", b"broken"):
                await self._copy_all(empty=reply[0] == b"empty")
                continue
            if reply[0] == b"ok":
                try:
                    await self._do(self._take, reply[4:])
                except FaceServerError:
                    raise
                except Exception:  # noqa: BLE001 - whatever is wrong with the copy, the store is the truth: copy it again
                    _log.exception("a copy could not follow the store and is made anew")
                    for copy in self._named.values():
                        copy.empty()
                    await self._copy_all(empty=False)
                    continue
                self._position = _Position(known.epoch, int(reply[1]), reply[2])
            if reply[0] == b"same" or reply[1] == reply[3]:
                self._settle(asked_at)
                return

    def _settle(self, asked_at: float) -> None:
        """The copies are as the store was at ``asked_at``, but for vectors that are still to come."""
        if not self._whole:
            for copy in self._named.values():
                copy.trusted = True
            self._whole = True
        self._proved_at = asked_at
        self._found()
        if not self._lacking:
            loaded = sum(copy.index.templates for copy in self._named.values())
            self._progress = (loaded, loaded)

    def _take(self, entries: Sequence[Sequence[Any]]) -> None:
        """Make the copies follow what a script brought. In the thread."""
        by_number = {copy.number: copy for copy in self._named.values()}
        for number, fields, people_keys, people, template_keys, records in entries:
            if not fields:
                if copy := by_number.pop(number, None):
                    copy.trusted = False
                continue
            place = self._scripts.key("c", number.decode())
            value = unpack_settings(fields, place)
            copy = by_number.setdefault(number, CollectionCopy(number, value))
            copy.trusted |= self._whole
            found = {
                key: self._checked(person, f"{place}:people")
                for key, person in zip(keys_of(b"".join(people_keys)).tolist(), people, strict=True)
            }
            there = [place for place, record in enumerate(records) if record is not None]
            batch = unpack_batch([records[one] for one in there], value.model, f"{place}:templates")
            arrived = Arrived(keys_of(b"".join(template_keys))[there], batch)
            copy.follow(found, arrived, partial(self._loading.fetch, copy), value)
        self._named = {copy.value.name: copy for copy in by_number.values()}

    @staticmethod
    def _checked(person: bytes | None, place: str) -> bytes | None:
        if person is not None:
            check_person(person, place)
        return person

    # Copying

    async def _copy_all(self, *, empty: bool) -> None:
        """Make the copies anew, or right where few people differ. The lock is held."""
        if self._position.revision >= 0:
            _log.warning("the gallery in Redis %s: its index is made anew", "was emptied" if empty else "is not what it was")
        self._position = _Position()
        self._whole = False
        self._lacking = []
        for copy in self._named.values():
            copy.trusted = False
        if empty:
            await self.claim()
        async with self._scripts.connection.errors("the gallery in Redis"):
            client = self._scripts.connection.client
            epoch, revision, token = await client.hmget(self._scripts.state, "epoch", "revision", "token")
            numbers = await client.hgetall(self._scripts.key("collections"))
            places = {number: self._scripts.key("c", number.decode()) for number in numbers.values()}
            values = {number: unpack_settings(await self._fields(place), place) for number, place in places.items()}
        if epoch is None:
            raise Unavailable("the gallery in Redis was emptied and begins anew", retry_after_s=1.0)
        # What is gone must not take memory while the others are copied.
        old = {copy.number: copy for copy in self._named.values() if copy.number in values}
        self._named = {copy.value.name: copy for copy in old.values()}
        total, done, made = sum(value.templates for value in values.values()), 0, []
        for number, value in values.items():
            copy = await self._do(self._copy_one, number, value, old.get(number), done, total)
            if copy is old.get(number) and (keys := await self._do(copy.lacking)):
                self._lacking.append((copy, keys))
            made.append(copy)
            done += copy.index.templates
        self._named = {copy.value.name: copy for copy in made}
        self._progress = (done, max(done, total))
        self._position = _Position(epoch, int(revision), token)

    async def _fields(self, place: str) -> list[bytes]:
        fields = await self._scripts.connection.client.hgetall(place)
        return [part for pair in fields.items() for part in pair]

    def _copy_one(self, number: bytes, value: Collection, old: CollectionCopy | None, done: int, total: int) -> CollectionCopy:
        def progress(templates: int) -> None:
            self._progress = (done + templates, max(total, done + templates))

        return self._loading.copy(number, value, old, progress)

    async def _fill(self) -> None:
        """Fetch some of the vectors that the copies lack."""
        async with self._lock:
            if not self._lacking:
                return
            copy, keys = self._lacking[-1]
            some, rest = keys[:_FILLED_AT_ONCE], keys[_FILLED_AT_ONCE:]
            await self._do(self._add_lacking, copy, some)
            if rest:
                self._lacking[-1] = (copy, rest)
            else:
                self._lacking.pop()
            self._progress = (min(self._progress[0] + len(some), self._progress[1]), self._progress[1])

    def _add_lacking(self, copy: CollectionCopy, keys: Sequence[int]) -> None:
        copy.add_lacking(self._loading.fetch(copy, keys))

    def _differences(self) -> int:
        return sum(self._loading.differences(copy) for copy in self._named.values())

    async def claim(self) -> None:
        """Mark the keys of the gallery as of this layout, and begin its history if there is none."""
        await self._scripts.connection.claim_layout(AREA, VERSION)
        await self._scripts.call("collections", "claim", secrets.token_hex(8), 0, "")

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the thread; whoever is cancelled waits for its end, so that the lock covers all of it."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _reason(self) -> str:
        if self._task is None:
            return "the gallery is closed"
        if self._trouble is not None:
            return self._trouble.message
        if not self._whole or self._lacking:
            loaded, total = self._progress
            return f"the index is being loaded from Redis: {loaded} of {total} templates"
        return "Redis has not been heard of"

    def _require_whole(self) -> None:
        if self._task is None:
            raise closed()
        if not self._whole:
            raise Unavailable(self._reason(), code="gallery_loading", retry_after_s=1.0)

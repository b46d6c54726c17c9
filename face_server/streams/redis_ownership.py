"""Who runs which stream where several replicas share a Redis.

Keys, all below ``face_server:{<namespace>:journal}:v1:``

| key | type | what |
|---|---|---|
| ``owner:<stream>`` | string, expires | the lock (redis-py's ``Lock``): ``<replica>/<number of the claim>`` |
| ``fence:<stream>`` | hash | ``token``, the newest fencing token, and ``free``, 1 once its owner let go of it |
| ``claims:<stream>`` | sorted set | the last 64 fencing tokens |
| ``replicas`` | hash, expires | a note of each replica: when it was written, by the clock of Redis, and what it says as JSON |
| ``restarts`` | hash | how often each stream was told to connect anew |
| ``specs-revision`` | integer | another one after each change of the registered streams |

A fencing token is the millisecond of Redis at which the claim was made, or one more than the last if that
is more. So tokens grow even after all keys were lost, and say when an owner began.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio.lock import Lock
from redis.exceptions import LockNotOwnedError

from face_server.domain.ports import Clock
from face_server.domain.replicas import Claim, Hold, Meeting, ReplicaNote
from face_server.domain.streams import StreamState, StreamStatus
from face_server.errors import Unavailable
from face_server.redis_connection import Connection

_log = logging.getLogger(__name__)

_CLAIMS_KEPT = 64
# Streams that are removed for good leave their fencing token behind for this long.
_FORGET_MS = 7 * 86_400_000

_FENCE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local time = redis.call('TIME')
local token = math.max((tonumber(redis.call('HGET', KEYS[2], 'token')) or 0) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[2], 'token', text, 'free', 0)
redis.call('ZADD', KEYS[3], text, text)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -{_CLAIMS_KEPT + 1})
redis.call('PERSIST', KEYS[2])
redis.call('PERSIST', KEYS[3])
return text
"""

# What redis-py's lock does to extend itself, for all locks of a replica at once. One that ran out, while Redis
# was away or because all keys were lost, is its owner's again if nobody has claimed the stream since.
_MEET = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, note, presence, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local lost, restarts = {}, {}
for i = 1, (#KEYS - 3) / 3 do
    local owner, fence, claims = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
    local stream, secret, token = ARGV[3 * i + 2], ARGV[3 * i + 3], ARGV[3 * i + 4]
    local held = redis.call('GET', owner)
    if held == secret then
        redis.call('PEXPIRE', owner, lease)
    else
        local last = redis.call('HMGET', fence, 'token', 'free')
        local newest = tonumber(last[1]) or 0
        local mine = tonumber(token)
        if not held and (newest < mine or (newest == mine and last[2] ~= '1')) then
            redis.call('SET', owner, secret, 'PX', lease)
            redis.call('HSET', fence, 'token', token, 'free', 0)
            redis.call('ZADD', claims, token, token)
        else
            lost[#lost + 1] = stream
        end
    end
    restarts[i] = redis.call('HGET', KEYS[3], stream) or '0'
end
redis.call('HSET', KEYS[1], id, string.format('%.0f', now) .. ' ' .. note)
redis.call('PEXPIRE', KEYS[1], 10 * presence)
local others, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local space = string.find(all[i + 1], ' ', 1, true)
    if now - tonumber(string.sub(all[i + 1], 1, space - 1)) > presence then
        redis.call('HDEL', KEYS[1], all[i])
    elseif all[i] ~= id then
        others[#others + 1] = all[i]
        others[#others + 1] = string.sub(all[i + 1], space + 1)
    end
end
return {lost, others, redis.call('GET', KEYS[2]) or '0', restarts}
"""

_FREE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'free', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return 1
"""

_SUPERSEDED = """
local time = redis.call('TIME')
local next = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'LIMIT', 0, 1)
return {next[1] or false, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))}
"""

_PRESENT = """
local time = redis.call('TIME')
local now, present = time[1] * 1000 + math.floor(time[2] / 1000), 0
for _, note in ipairs(redis.call('HVALS', KEYS[1])) do
    if now - (tonumber(string.match(note, '^%d+')) or 0) <= tonumber(ARGV[1]) then present = present + 1 end
end
return present
"""


@dataclass(frozen=True, slots=True)
class RedisOwnershipOptions:
    """``lease_s`` is how long a lock outlives its last renewal, ``presence_s`` how long a note is shown.

    A command that takes longer than ``timeout_s``, or a connection that takes longer than ``connect_timeout_s``, has failed: both are
    shorter than elsewhere, so that owners are back before anybody else may take their streams.
    """

    lease_s: float = 3.5
    presence_s: float = 4.0
    timeout_s: float = 1.5
    connect_timeout_s: float = 1.0


async def count_replicas(connection: Connection) -> int:
    """How many replicas have shown themselves within the last seconds. For whoever must not work beside them."""
    key = connection.key("journal", "v1", "replicas")
    async with connection.errors(f"the key {key}"):
        return int(await connection.client.eval(_PRESENT, 1, key, round(RedisOwnershipOptions().presence_s * 1000)))


class RedisOwnership:
    """``Ownership`` with one lock a stream: redis-py's ``Lock``, and a fencing token that is given out while it is held.

    A lock that ran out says that its owner is gone or that Redis was. It is the owner's again as long as
    nobody else has claimed the stream; so whoever wants it waits (``Tenancy`` does) until an owner who is still
    there would have come back.
    """

    shared = True

    def __init__(self, connection: Connection, clock: Clock, options: RedisOwnershipOptions | None = None) -> None:
        self.replica = secrets.token_hex(8)
        self._options = options = options or RedisOwnershipOptions()
        self.lease_s = options.lease_s
        self._connection = connection
        self._clock = clock
        self._client = connection.open_client(socket_timeout=options.timeout_s, socket_connect_timeout=options.connect_timeout_s)
        self._numbers = itertools.count(1)
        self._locks: dict[str, Lock] = {}
        self._fence, self._meet, self._free, self._superseded = (
            self._client.register_script(script) for script in (_FENCE, _MEET, _FREE, _SUPERSEDED)
        )
        self._closed = False

    async def claim(self, stream_id: str, *, patient: bool = False) -> Claim | None:
        """See ``Ownership.claim``."""
        async with self._errors(stream_id):
            if not patient:
                token, free = await self._client.hmget(self._key("fence", stream_id), "token", "free")
                if token is not None and free != b"1":
                    return None
            # A new secret each time: what an earlier attempt left behind in a Redis that hung is not this claim.
            secret = f"{self.replica}/{next(self._numbers)}"
            lock = Lock(self._client, self._key("owner", stream_id), timeout=self._options.lease_s, thread_local=False)
            if not await lock.acquire(blocking=False, token=secret):
                return None
            fenced = await self._fence(keys=self._keys(stream_id), args=[secret])
            if fenced is None:
                return None
            self._locks[secret] = lock
            return Claim(stream_id, int(fenced), secret)

    async def meet(self, note: ReplicaNote, claims: Sequence[Claim]) -> Meeting:
        """See ``Ownership.meet``."""
        keys = [self._key(name) for name in ("replicas", "specs-revision", "restarts")]
        lasting = [round(seconds * 1000) for seconds in (self._options.presence_s, self._options.lease_s)]
        args: list[Any] = [self.replica, _write_note(note), *lasting]
        for claim in claims:
            keys += self._keys(claim.stream_id)
            args += [claim.stream_id, claim.secret, claim.token]
        async with self._errors("*"):
            taken, others, revision, restarts = await self._meet(keys=keys, args=args)
        lost = frozenset(stream.decode() for stream in taken)
        for claim in claims:
            if claim.stream_id in lost:
                self._locks.pop(claim.secret, None)
        return Meeting(
            lost,
            tuple(_read_notes(others)),
            int(revision),
            {claim.stream_id: int(count) for claim, count in zip(claims, restarts, strict=True)},
        )

    async def holders(self, stream_ids: Sequence[str]) -> Mapping[str, Hold]:
        """See ``Ownership.holders``."""
        if not stream_ids:
            return {}
        holds: dict[str, Hold] = {}
        async with self._errors("*"):
            owners = await self._client.mget([self._key("owner", stream_id) for stream_id in stream_ids])
            for stream_id, owner in zip(stream_ids, owners, strict=True):
                if owner is not None:
                    holds[stream_id] = Hold(owner.decode("utf-8", "replace").partition("/")[0])
                    continue
                token, free = await self._client.hmget(self._key("fence", stream_id), "token", "free")
                holds[stream_id] = Hold(free=free == b"1", fresh=token is None)
        return holds

    async def release(self, claim: Claim) -> None:
        """See ``Ownership.release``. Marked as free first: who dies in between leaves a lock that runs out."""
        lock = self._locks.pop(claim.secret, None)
        async with self._errors(claim.stream_id):
            if await self._free(keys=self._keys(claim.stream_id), args=[claim.secret, _FORGET_MS]) and lock is not None:
                with contextlib.suppress(LockNotOwnedError):
                    await lock.release()

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """See ``Ownership.superseded_at``. By how long ago it was: clocks of machines differ."""
        async with self._errors(stream_id):
            newer, now = await self._superseded(keys=[self._key("claims", stream_id)], args=[token])
        return None if newer is None else self._clock.now() - (int(now) - int(newer)) / 1000

    async def announce(self) -> None:
        """See ``Ownership.announce``."""
        async with self._errors("specs-revision"):
            # Not a count: after all keys were lost it would soon be where it was, and nobody would read anything.
            await self._client.set(self._key("specs-revision"), secrets.randbits(52) + 1)

    async def ask_restart(self, stream_id: str) -> None:
        """See ``Ownership.ask_restart``."""
        async with self._errors("restarts"):
            await self._client.hincrby(self._key("restarts"), stream_id, 1)

    async def close(self) -> None:
        """See ``Ownership.close``. The connection itself belongs to whoever opened it."""
        if self._closed:
            return
        self._closed = True
        try:
            async with self._errors("replicas"):
                await self._client.hdel(self._key("replicas"), self.replica)
        except Unavailable as error:
            _log.debug("the note of this replica stays until it is too old: %s", error.message)
        await self._client.aclose()

    def _key(self, *parts: str) -> str:
        return self._connection.key("journal", "v1", *parts)

    def _errors(self, what: str) -> AbstractAsyncContextManager[None]:
        """Translate errors of the block, which concerns the keys of a stream or those that end in ``what``."""
        return self._connection.errors(f"who runs which stream (keys {self._key()}:…:{what})")

    def _keys(self, stream_id: str) -> list[str]:
        return [self._key(name, stream_id) for name in ("owner", "fence", "claims")]


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(StreamStatus)}


def _write_note(note: ReplicaNote) -> bytes:
    """A note as JSON; what is as usual in a status is left out."""
    statuses = [
        {name: value for name in _DEFAULTS if (value := getattr(status, name)) != _DEFAULTS[name] and name != "replica"}
        for status in note.statuses
    ]
    return orjson.dumps({"name": note.name, "url": note.url, "room": note.room, "statuses": statuses})


def _read_notes(flat: Sequence[bytes]) -> list[ReplicaNote]:
    """Ids and notes by turns. Tolerant: another version may have written them."""
    notes: list[ReplicaNote] = []
    for replica, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            raw = orjson.loads(text)
            statuses = tuple(_read_status(one, raw["name"]) for one in raw["statuses"])
            notes.append(ReplicaNote(replica.decode(), raw["name"], raw["url"], int(raw["room"]), statuses))
        except (ValueError, KeyError, TypeError):
            _log.debug("the note of replica %s cannot be read", replica)
    return notes


def _read_status(raw: Mapping[str, Any], replica: str) -> StreamStatus:
    known = {name: raw[name] for name in _DEFAULTS if name in raw}
    return StreamStatus(**{**known, "state": StreamState(raw["state"]), "replica": replica})

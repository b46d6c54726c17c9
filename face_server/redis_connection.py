"""Redis as this project uses it: one address for a server, Sentinel or a Cluster, and its errors as sentences.

Addresses: ``redis://[user:password@]host:port/db``, ``rediss://…`` (TLS), ``unix://[user:password@]/path?db=0``,
``redis+sentinel://[user:password@]host:port,host:port/service/db`` and ``redis+cluster://[user:password@]host:port,…``;
the last two also as ``rediss+…``. User and password are percent-encoded. Sentinels of their own password get it
as ``?sentinel_username=…&sentinel_password=…``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from face_server.errors import ConfigurationError, FaceServerError, Unavailable

_SCHEME = re.compile(r"(?P<kind>redis|rediss|unix)(?P<form>\+sentinel|\+cluster)?")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:(?P<port>\d{1,5}))?")
_PORTS = {"": 6379, "+cluster": 6379, "+sentinel": 26379}
_IDLE_CHECK_S = 5

# The library leaves these untyped.
_AsyncSentinel: Any = aioredis.Sentinel
_AsyncNode: Any = ClusterNode
_AsyncCluster: Any = aioredis.RedisCluster
_Sentinel: Any = redis.Sentinel
_Node: Any = redis.cluster.ClusterNode
_Cluster: Any = redis.RedisCluster


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Which Redis, and how long it may take.

    ``namespace`` keeps several services apart in one database. Of a write, ``wait_replicas`` replicas must have
    acknowledged it within ``timeout_s`` before it is acknowledged to the caller (0: none; not with a Cluster).
    ``ca_file`` holds the certificates that TLS trusts, None those of the system.
    """

    url: str = field(repr=False)
    namespace: str = "main"
    connect_timeout_s: float = 2.0
    timeout_s: float = 5.0
    max_connections: int = 64
    ca_file: Path | None = None
    wait_replicas: int = 0


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed address. ``form`` is "", "+sentinel" or "+cluster"; ``path`` is a unix socket or the service's name."""

    form: str
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    database: int = 0
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_access: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The address without user and password."""
        if not self.hosts:
            return f"unix://{self.path}?db={self.database}"
        places = ",".join(f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.path}" if self.path else ""
        return f"{'rediss' if self.tls else 'redis'}{self.form}://{places}{service}" + (
            "" if self.form == "+cluster" else f"/{self.database}"
        )


def parse_address(url: str) -> RedisAddress:
    """Read an address. Raises ConfigurationError that shows the expected form and never the password."""
    scheme, separator, rest = url.strip().partition("://")
    found = _SCHEME.fullmatch(scheme)
    if found is None or not separator or (found["kind"] == "unix" and found["form"]):
        raise _wrong("it must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    # Only here: the standard parser takes one host.
    access, _, place = rest.rpartition("@") if "@" in rest.split("?")[0] else ("", "", rest)
    user, _, password = access.partition(":")
    parts = urlsplit(f"//{place}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    form, tls = found["form"] or "", found["kind"] == "rediss"
    secrets: dict[str, Any] = {"user": unquote(user) or None, "password": unquote(password) or None}
    if found["kind"] == "unix":
        _only(query, {"db"})
        if not parts.path.startswith("/") or parts.netloc:
            raise _wrong("a unix address is unix:///path/to/redis.sock")
        return RedisAddress("", (), unquote(parts.path), _database(query.get("db", "0")), **secrets)
    hosts = tuple(_host(one, _PORTS[form]) for one in parts.netloc.split(","))
    if len(hosts) > 1 and not form:
        raise _wrong("several hosts need redis+sentinel:// or redis+cluster://")
    names = [unquote(one) for one in parts.path.split("/") if one]
    if form == "+sentinel":
        _only(query, {"sentinel_username", "sentinel_password"})
        if not 1 <= len(names) <= 2:
            raise _wrong("a Sentinel address ends in /service or /service/db")
        keys = {"sentinel_username": "username", "sentinel_password": "password"}
        sentinel_access = {keys[name]: value for name, value in query.items()}
        return RedisAddress(form, hosts, names[0], _database("".join(names[1:]) or "0"), tls, sentinel_access=sentinel_access, **secrets)
    _only(query, set())
    if len(names) > (0 if form else 1):
        raise _wrong(
            "a Cluster has one database, so nothing follows its hosts" if form else "after the host comes the number of the database"
        )
    return RedisAddress(form, hosts, "", _database("".join(names) or "0"), tls, **secrets)


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"the address of Redis cannot be used: {what}")


def _only(query: Mapping[str, str], known: set[str]) -> None:
    if unknown := query.keys() - known:
        raise _wrong(f"it has the unknown parameter {min(unknown)[:40]!r}")


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or port) < 65_536:
        raise _wrong("each host must be host:port (special characters of user and password percent-encoded)")
    return found["host"].strip("[]"), int(found["port"] or port)


def _database(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise _wrong("the database must be a number")
    return int(text)


class Connection:
    """A pool of connections to one Redis, for several stores to share. ``client`` never repeats a command by itself."""

    def __init__(self, options: RedisOptions, address: RedisAddress, ca_pem: str | None) -> None:
        self.options = options
        self.address = address
        self._common: dict[str, Any] = {
            "username": address.user,
            "password": address.password,
            "socket_timeout": options.timeout_s,
            "socket_connect_timeout": options.connect_timeout_s,
            # What lay idle longer is asked whether it still lives, so that a restarted server is no error.
            "health_check_interval": _IDLE_CHECK_S,
            "protocol": 2,
            # Finding out its own version, the library would read files.
            "driver_info": None,
        }
        if address.tls:
            self._common |= {"ssl": True, "ssl_ca_data": ca_pem}
        self._sentinels: list[aioredis.Redis] = []
        self.client: Any = self.open_client()

    def __str__(self) -> str:
        return str(self.address)

    @property
    def clustered(self) -> bool:
        """Whether it is a Cluster."""
        return self.address.form == "+cluster"

    def key(self, area: str, *parts: str) -> str:
        """The name of a key of an area ("gallery", "journal"), whose keys all lie in one slot of a Cluster."""
        return ":".join((f"face_server:{{{self.options.namespace}:{area}}}", *parts))

    def open_client(self, **changes: Any) -> Any:
        """Another client (with its own connections) for the same Redis, such as one that blocks; to be closed by ``aclose``."""
        address, common = self.address, self._common | changes
        if not address.hosts:
            common = {"unix_socket_path": address.path, **common}
        elif address.form == "+cluster":
            nodes = [_AsyncNode(host, port) for host, port in address.hosts]
            return _AsyncCluster(startup_nodes=nodes, max_connections=self.options.max_connections, **common)
        retry: dict[str, Any] = {
            "retry": AsyncRetry(NoBackoff(), 0),
            "max_connections": self.options.max_connections,
            "db": address.database,
        }
        if address.form == "+sentinel":
            sentinels = _AsyncSentinel(list(address.hosts), sentinel_kwargs=self._sentinel_access(), **common, **retry)
            self._sentinels += sentinels.sentinels
            return sentinels.master_for(address.path)
        if address.hosts:
            common |= {"host": address.hosts[0][0], "port": address.hosts[0][1]}
        return aioredis.Redis(**common, **retry)

    def open_blocking(self) -> Any:
        """A client for worker threads, for bulk work; to be closed by ``close``."""
        address, common = self.address, dict(self._common)
        if address.form == "+cluster":
            nodes = [_Node(host, port) for host, port in address.hosts]
            return _Cluster(startup_nodes=nodes, **common)
        retry: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "db": address.database}
        if address.form == "+sentinel":
            sentinels = _Sentinel(list(address.hosts), sentinel_kwargs=self._sentinel_access(), **common, **retry)
            return sentinels.master_for(address.path)
        if address.hosts:
            common |= {"host": address.hosts[0][0], "port": address.hosts[0][1]}
        else:
            common |= {"unix_socket_path": address.path}
        return redis.Redis(**common, **retry)

    def _sentinel_access(self) -> dict[str, Any]:
        kept = ("socket_timeout", "socket_connect_timeout", "protocol", "driver_info", "ssl", "ssl_ca_data")
        common = {name: self._common[name] for name in kept if name in self._common}
        # A sentinel that hangs must not keep the others from being asked.
        return common | {"socket_timeout": self.options.connect_timeout_s, **self.address.sentinel_access}

    @asynccontextmanager
    async def errors(self, what: str, *, at_start: bool = False) -> AsyncIterator[None]:
        """Translate errors of Redis in the block; ``what`` is the key or the thing that it is about."""
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        with self.blocking_errors(what, at_start=at_start):
            yield
        # The library sends through wait_for, which before Python 3.12 loses a cancellation that comes at the wrong moment.
        if task is not None and task.cancelling() > cancelled:
            raise asyncio.CancelledError

    @contextmanager
    def blocking_errors(self, what: str, *, at_start: bool = False) -> Iterator[None]:
        """``errors`` for worker threads."""
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as error:
            raise translate(error, f"{what} at {self}", at_start=at_start) from error

    async def claim_layout(self, area: str, version: int) -> None:
        """Mark an area's keys as of this layout, or make sure that they are.

        Raises ConfigurationError where the mark is of a newer version or something else lies under its name.
        """
        key = self.key(area, "layout")
        async with self.errors(f"the key {key}", at_start=True):
            found = await self.client.set(key, str(version), nx=True, get=True)
        if found is None or found == str(version).encode():
            return
        if not found.isdigit():
            raise ConfigurationError(f"the key {key} at {self} is not from face_server: nothing was changed; choose another namespace")
        if int(found) > version:
            raise ConfigurationError(
                f"the key {key} at {self} says layout version {int(found)}, but this face_server knows versions up to {version};"
                " run a newer face_server"
            )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        for client in (self.client, *self._sentinels):
            await client.aclose()


async def open_redis(options: RedisOptions) -> Connection:
    """Connect and make sure that the Redis answers and may be written.

    Raises ConfigurationError for a wrong address, password or namespace, Unavailable when it is away.
    """
    address = parse_address(options.url)
    if not _NAMESPACE.fullmatch(options.namespace):
        raise ConfigurationError("the namespace in Redis must be 1 to 64 of A-Z a-z 0-9 _ . -")
    if address.form == "+cluster" and options.wait_replicas:
        raise ConfigurationError("a Redis Cluster cannot be asked to wait for replicas")
    try:
        pem = await asyncio.to_thread(options.ca_file.read_text, "ascii") if options.ca_file else None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the certificates of {options.ca_file} for Redis cannot be read") from error
    connection = Connection(options, address, pem)
    try:
        async with connection.errors("Redis", at_start=True):
            await connection.client.execute_command("PING", **({"target_nodes": "random"} if connection.clustered else {}))
    except BaseException:
        await connection.close()
        raise
    return connection


_SENTENCES: tuple[tuple[type[Exception] | str, str, str, float, bool], ...] = (
    # What raises or how the reply begins; code; what it says; retry after s; whether an operator must act (at start).
    (exceptions.AuthenticationError, "redis_credentials", "refuses the user name or the password", 30.0, True),
    (exceptions.AuthenticationWrongNumberOfArgsError, "redis_credentials", "is too old for user names", 30.0, True),
    ("WRONGPASS", "redis_credentials", "refuses the user name or the password", 30.0, True),
    ("NOAUTH", "redis_credentials", "wants a password", 30.0, True),
    (exceptions.NoPermissionError, "redis_forbidden", "does not permit this user what is needed (ACL)", 30.0, True),
    ("WRONGTYPE", "redis_foreign_key", "holds a value of another type; nothing was changed", 30.0, True),
    (exceptions.ReadOnlyError, "storage_read_only", "is a read-only replica; name its master, or Sentinel", 5.0, True),
    (exceptions.OutOfMemoryError, "storage_full", "has reached maxmemory; nothing was changed", 30.0, False),
    ("OOM", "storage_full", "has reached maxmemory; nothing was changed", 30.0, False),
    ("MISCONF", "storage_full", "cannot write to its disk; nothing was changed", 30.0, False),
    ("NOREPLICAS", "storage_unavailable", "has too few replicas; nothing was changed", 5.0, False),
    (exceptions.BusyLoadingError, "storage_busy", "is loading its data", 2.0, False),
    ("BUSY ", "storage_busy", "runs a long script", 2.0, False),
    ("TRYAGAIN", "storage_busy", "is moving keys between nodes", 2.0, False),
    ("DB index is out of range", "redis_database", "has no database of that number", 30.0, True),
    ("unknown command", "redis_too_old", "lacks a needed command: it is older than Redis 7.0, or not what its address says", 30.0, True),
    (exceptions.ClusterDownError, "storage_unavailable", "has lost nodes of its Cluster (CLUSTERDOWN)", 5.0, False),
    (exceptions.RedisClusterException, "storage_unavailable", "has no node of its Cluster that answers", 5.0, False),
    (exceptions.TimeoutError, "storage_unavailable", "did not answer in time", 5.0, False),
    (TimeoutError, "storage_unavailable", "did not answer in time", 5.0, False),
    (exceptions.MaxConnectionsError, "storage_busy", "is asked by too many at once", 1.0, False),
    (exceptions.ConnectionError, "storage_unavailable", "cannot be reached, or the connection broke off", 5.0, False),
    (OSError, "storage_unavailable", "cannot be reached, or the connection broke off", 5.0, False),
)


def translate(error: Exception, what: str, *, at_start: bool = False) -> FaceServerError:
    """The error of our tree for an error of Redis: one sentence that begins with ``what``, never with a password.

    ``at_start`` makes what only an operator can heal a ConfigurationError instead of Unavailable.
    """
    text = str(error)
    for sign, code, sentence, retry_after_s, operator in _SENTENCES:
        if text.startswith(sign) if isinstance(sign, str) else isinstance(error, sign):
            if at_start and operator:
                return ConfigurationError(f"{what} {sentence}")
            return Unavailable(f"{what} {sentence}", code=code, retry_after_s=retry_after_s)
    # Texts of the server may quote the command, and with it what it was about to store.
    reply = text.split(maxsplit=1)[0][:40] if isinstance(error, exceptions.ResponseError) and text else type(error).__name__
    return Unavailable(f"{what} failed with {reply}", code="storage_unavailable", retry_after_s=30.0)

"""Events as entries of a Redis stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, DataError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.typing import EncodableT

from face_server.domain.events import Event
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks.addresses import Address, Resolver
from face_server.sinks.payload import event_json

DEFAULT_KEY = "face_server:events"

_HOPELESS = ("WRONGTYPE", "unknown command")


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """``max_length`` is about how many entries the stream keeps; ``ca_pem`` are the trusted certificates of rediss."""

    max_length: int = 100_000
    timeout_s: float = 10.0
    ca_pem: str | None = None


class RedisSink:
    """Adds each event to the stream ``key``: fields ``id``, ``kind``, ``stream_id`` and ``event`` (JSON)."""

    wants_pictures = False

    def __init__(self, address: Address, key: str, options: RedisOptions, resolver: Resolver) -> None:
        self._address = address
        self._key = key or DEFAULT_KEY
        self._options = options
        self._resolver = resolver
        # Two tries: a connection that died while it was idle is not the server being away.
        self._redis = Redis(
            host=address.host,
            port=address.port,
            db=int(address.path.strip("/") or 0),
            username=address.user or None,
            password=address.password or None,
            ssl=address.scheme == "rediss",
            ssl_ca_data=options.ca_pem,
            socket_timeout=options.timeout_s,
            socket_connect_timeout=options.timeout_s,
            retry=Retry(NoBackoff(), 1),
            max_connections=8,
            # Finding out its own version, the library would read files.
            driver_info=None,
        )

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:  # noqa: ARG002 - the port's signature
        """Append the event (XADD); returns when Redis has acknowledged it."""
        fields: dict[EncodableT, EncodableT] = {
            "id": event.id,
            "kind": event.kind.value,
            "stream_id": event.stream_id,
            "event": event_json(event),
        }
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await self._resolver.peers(self._address)
                await self._redis.xadd(self._key, fields, maxlen=self._options.max_length, approximate=True)
        except TimeoutError as error:
            raise Unavailable(f"Redis did not answer within {self._options.timeout_s:g} s", retry_after_s=0.0) from error
        except RedisError as error:
            raise _translated(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _translated(error: RedisError) -> Unavailable | DeliveryRefused:
    """Refused is what no time heals; everything else ends by itself or when the operator has seen to the server."""
    if isinstance(error, DataError) or (isinstance(error, ResponseError) and str(error).startswith(_HOPELESS)):
        return DeliveryRefused("Redis refuses the entry: the key holds something other than a stream, or the server is older than 5.0")
    return Unavailable(_reason(error), retry_after_s=0.0)


def _reason(error: RedisError) -> str:
    if isinstance(error, AuthenticationError):
        return "Redis refuses the user name or the password"
    if isinstance(error, NoPermissionError):
        return "Redis does not permit this user to add to the stream"
    if isinstance(error, RedisTimeoutError):
        return "Redis did not answer in time"
    if isinstance(error, RedisConnectionError):
        return "Redis cannot be connected to, or the connection broke off"
    return "Redis cannot take entries at the moment"

"""Events as signed HTTP requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx
import orjson
import pybase64

import face_server
from face_server.domain.events import Event
from face_server.domain.ports import Clock
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks.addresses import Address, Resolver
from face_server.sinks.payload import event_payload
from face_server.workers import Workers

SIGNATURE_HEADER = "x-face-server-signature"
TIMESTAMP_HEADER = "x-face-server-timestamp"
EVENT_HEADER = "x-face-server-event"

_AGAIN = frozenset({408, 425, 429})
_MAX_RETRY_AFTER_S = 3600.0
_MAX_ANSWER = 64 * 1024


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The signature header of ``body`` sent at ``timestamp`` (Unix seconds).

    ``t=<timestamp>,v1=<hex>``: HMAC-SHA256 with the secret's UTF-8 bytes over the timestamp in
    decimal, a full stop, and the body as it is sent.
    """
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """``pictures`` puts the JPEGs into the body, as base64, instead of their addresses alone."""

    pictures: bool = False
    timeout_s: float = 10.0


class Webhook:
    """POSTs each event as JSON; a 2xx answer is a receipt.

    408, 425, 429 and 5xx are tried again, not before the time in Retry-After; other answers,
    redirects among them, refuse the event for good. The connection is made to an address that was
    checked, for the host of the URL.
    """

    def __init__(
        self,
        address: Address,
        secret: str,
        options: WebhookOptions,
        trust: ssl.SSLContext,
        resolver: Resolver,
        workers: Workers,
        clock: Clock,
    ) -> None:
        self.wants_pictures = options.pictures
        self._address = address
        self._secret = secret
        self._timeout_s = options.timeout_s
        self._resolver = resolver
        self._workers = workers
        self._clock = clock
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=30.0)
        self._transport = httpx.AsyncHTTPTransport(verify=trust, trust_env=False, limits=limits)

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """POST the event."""
        body = await self._workers.run(_body, event, pictures if self.wants_pictures else {})
        headers = self._headers(event, body)
        try:
            async with asyncio.timeout(self._timeout_s):
                status, retry_after = await self._post(headers, body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unavailable(f"the receiver did not answer within {self._timeout_s:g} s", retry_after_s=0.0) from error
        except httpx.TransportError as error:
            raise Unavailable(_transport_failure(error), retry_after_s=0.0) from error
        if status in _AGAIN or status >= 500:
            wait_s = _retry_after(retry_after, self._clock.now())
            raise Unavailable(f"the receiver answered {status}", retry_after_s=wait_s)
        if 300 <= status < 400:
            raise DeliveryRefused(f"the receiver answered {status}: redirects are not followed")
        if not 200 <= status < 300:
            raise DeliveryRefused(f"the receiver answered {status}")

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _headers(self, event: Event, body: bytes) -> dict[str, str]:
        now = int(self._clock.now())
        default_port = {"http": 80, "https": 443}[self._address.scheme]
        headers = {
            "host": self._address.authority.removesuffix(f":{default_port}"),
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": f"face_server/{face_server.__version__}",
            EVENT_HEADER: event.id,
            TIMESTAMP_HEADER: str(now),
        }
        if self._secret:
            headers[SIGNATURE_HEADER] = signature(self._secret, now, body)
        if self._address.user or self._address.password:
            pair = f"{self._address.user}:{self._address.password}"
            headers["authorization"] = f"Basic {pybase64.b64encode(pair.encode()).decode('ascii')}"
        return headers

    async def _post(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Status and Retry-After of the answer."""
        peers = await self._resolver.peers(self._address)
        for index, peer in enumerate(peers):
            try:
                response = await self._transport.handle_async_request(self._request(peer, headers, body))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if index + 1 == len(peers):
                    raise
            else:
                async with aclosing(response):
                    await _drain(response)
                return response.status_code, response.headers.get("retry-after", "")
        raise Unavailable("the host name of the receiver has no address", retry_after_s=0.0)

    def _request(self, peer: str, headers: Mapping[str, str], body: bytes) -> httpx.Request:
        address = self._address
        target = f"{address.path or '/'}{'?' if address.query else ''}{address.query}"
        url = httpx.URL(scheme=address.scheme, host=peer, port=address.port, raw_path=target.encode())
        timeout = httpx.Timeout(self._timeout_s)
        extensions = {"timeout": timeout.as_dict(), "sni_hostname": address.host}
        return httpx.Request("POST", url, headers=dict(headers), content=body, extensions=extensions)


async def _drain(response: httpx.Response) -> None:
    """Read a short answer, so that the connection can be used again; a long one is cut off with its connection."""
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > _MAX_ANSWER:
            return


def _body(event: Event, pictures: Mapping[str, bytes]) -> bytes:
    payload = event_payload(event)
    if pictures:
        named = {"picture": event.picture, "frame": event.frame_picture}
        payload["pictures"] = {
            name: pybase64.b64encode(pictures[picture]).decode("ascii") for name, picture in named.items() if picture in pictures
        }
    return orjson.dumps(payload)


def _retry_after(value: str, now: float) -> float:
    """Seconds to wait by a Retry-After header (seconds or a date), an hour at most; 0 where it says nothing."""
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _transport_failure(error: httpx.TransportError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "the certificate of the receiver cannot be verified"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "the receiver cannot be connected to"
    return "the connection to the receiver broke off or is not HTTP"

"""Pictures behind URLs that callers name, fetched without being turned against the own network."""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx

import face_server
from face_server.domain.addresses import AddressPolicy, literal_address, plain_host
from face_server.errors import InputTooLarge, InvalidInput, Overloaded
from face_server.video.request_headers import check_headers

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""From a host name to its addresses; raises OSError where there are none."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_URL_LENGTH = 8192
_MAX_HOST_LENGTH = 253
_MAX_TRIED_ADDRESSES = 3
_RESOLVER_THREADS = 8
_INFLATED_PIECE = 256 * 1024
_OWN_HEADERS = {
    "user-agent": f"face_server/{face_server.__version__}",
    "accept": "image/*, */*;q=0.5",
    "accept-encoding": "identity",
    "connection": "close",
}


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What may be fetched and for how long.

    ``allowed_hosts`` lists host names, addresses and networks that need not be public. ``ports``
    restricts the ports, empty allows any. A ``proxy`` (http://host:port) resolves names itself and
    must then hold the address policy for them; proxies of the environment are ignored.
    ``ca_file`` holds certificates in PEM that are trusted beside the usual ones.
    """

    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 20 * 1024 * 1024
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 20.0
    max_redirects: int = 5
    concurrency: int = 16
    ports: tuple[int, ...] = ()
    proxy: str | None = None
    ca_file: str | None = None


class Fetcher:
    """``ImageFetcher`` over HTTP/1.1.

    Every address a name resolves to is checked, and the connection is made to a checked address,
    so an answer of the name server that changes in between gains nothing; the certificate is still
    verified for the name. Redirects go the same way. No cookies, no connection kept between
    fetches: callers share nothing. Messages name the host alone, as paths and queries hold secrets.
    """

    def __init__(self, options: FetchOptions, resolve: Resolver | None = None) -> None:
        self.options = options
        self._policy = AddressPolicy.trusting(options.allowed_hosts)
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")
        self._resolve = resolve or self._resolve_by_system
        self._places = asyncio.Semaphore(options.concurrency)
        certificates = httpx.create_ssl_context(trust_env=False)
        if options.ca_file is not None:
            certificates.load_verify_locations(options.ca_file)
        self._transport = httpx.AsyncHTTPTransport(
            verify=certificates,
            trust_env=False,
            proxy=httpx.Proxy(options.proxy) if options.proxy else None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """The body behind ``url``; see ``ImageFetcher.fetch``.

        ``headers`` go to the first origin only. Raises InvalidInput (code ``fetch_failed`` where
        the address is fine and the download is not), InputTooLarge, and Overloaded when all
        downloads stay busy for ``total_timeout_s``.
        """
        checked = check_headers(headers or {})
        target = self._check_url(url)
        async with self._place():
            try:
                async with asyncio.timeout(self.options.total_timeout_s):
                    return await self._follow(target, checked)
            except TimeoutError as error:
                raise _failed(f"the download from {target.host} took longer than {self.options.total_timeout_s:g} s") from error

    async def close(self) -> None:
        """Close connections and end the resolver's threads. Idempotent."""
        await self._transport.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Hold one of the ``concurrency`` places."""
        try:
            async with asyncio.timeout(self.options.total_timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise Overloaded(f"all {self.options.concurrency} downloads are busy, try again later") from error
        try:
            yield
        finally:
            self._places.release()

    async def _follow(self, url: httpx.URL, headers: Mapping[str, str]) -> bytes:
        for _ in range(self.options.max_redirects + 1):
            async with aclosing(await self._get(url, headers)) as response:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    return await self._body(response, url)
            target = self._check_url(_join(url, location))
            if _origin(target) != _origin(url):
                headers = {}
            url = target
        raise _failed(f"{url.host} redirects more than {self.options.max_redirects} times")

    async def _get(self, url: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        """The response to GET with its body still to be read."""
        addresses = await self._addresses(url.raw_host.decode("ascii"))
        for index, address in enumerate(addresses):
            try:
                return await self._transport.handle_async_request(self._request(url, headers, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if index + 1 == len(addresses):
                    raise _transport_failure(error, url.host) from error
            except httpx.TransportError as error:
                raise _transport_failure(error, url.host) from error
        raise _failed(f"{url.host} has no address")

    def _request(self, url: httpx.URL, headers: Mapping[str, str], address: str | None) -> httpx.Request:
        """A request that connects to ``address`` and speaks to the host of ``url`` there; None lets the proxy connect."""
        options = self.options
        timeout = httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s)
        extensions: dict[str, object] = {"timeout": timeout.as_dict()}
        peer = url
        if address is not None:
            extensions["sni_hostname"] = url.raw_host.decode("ascii")
            peer = url.copy_with(host=address)
        sent = {"host": url.netloc.decode("ascii"), **_OWN_HEADERS, **headers}
        return httpx.Request("GET", peer, headers=sent, extensions=extensions)

    async def _addresses(self, host: str) -> list[str | None]:
        """Checked addresses to connect to; a lone None where the proxy resolves the name."""
        trusted = self._policy.trusts_name(host)
        found: Sequence[str]
        literal = literal_address(host)
        if literal is not None:
            found = [literal]
        elif self.options.proxy is not None:
            return [None]
        else:
            try:
                found = await self._resolve(host)
            except (OSError, UnicodeError) as error:
                raise _failed(f"the host name {host} cannot be resolved") from error
        if not trusted and not all(self._policy.permits(address) for address in found):
            raise InvalidInput(
                f"{host} does not lead to a public address, and it is not among the allowed hosts", code="url_forbidden", field="url"
            )
        return [None] if self.options.proxy is not None else list(found[:_MAX_TRIED_ADDRESSES])

    async def _resolve_by_system(self, host: str) -> Sequence[str]:
        """Own threads, so that slow name servers hold up nothing else."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _lookup, host)

    def _check_url(self, url: str | httpx.URL) -> httpx.URL:
        try:
            if len(str(url)) > _MAX_URL_LENGTH:
                raise InvalidInput(f"the URL is longer than {_MAX_URL_LENGTH} characters", field="url")
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InvalidInput("the URL is malformed", field="url") from error
        if parsed.scheme not in ("http", "https"):
            raise InvalidInput("the URL must start with http:// or https://", field="url")
        if not 1 <= len(parsed.host) <= _MAX_HOST_LENGTH:
            raise InvalidInput(f"the URL must name a host of at most {_MAX_HOST_LENGTH} characters", field="url")
        if parsed.userinfo:
            raise InvalidInput("the URL must not hold a user name or password", field="url")
        port = _port(parsed)
        if not 1 <= port <= 65535:
            raise InvalidInput("the URL's port must be 1 to 65535", field="url")
        if self.options.ports and port not in self.options.ports:
            raise InvalidInput(
                f"the URL names a port that is not allowed (allowed: {', '.join(map(str, self.options.ports))})",
                code="url_forbidden",
                field="url",
            )
        return parsed.copy_with(host=plain_host(parsed.host))

    async def _body(self, response: httpx.Response, url: httpx.URL) -> bytes:
        if not response.is_success:
            raise _failed(f"the server {url.host} answered {response.status_code}")
        limit = self.options.max_bytes
        stated = response.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > limit:
            raise _too_large(url.host, limit)
        body = bytearray()
        try:
            async with aclosing(_decoded(response)) as pieces:
                async for piece in pieces:
                    if len(body) + len(piece) > limit:
                        raise _too_large(url.host, limit)
                    body += piece
        except httpx.TransportError as error:
            raise _transport_failure(error, url.host) from error
        except zlib.error as error:
            raise _failed(f"the server {url.host} sent damaged gzip data") from error
        return bytes(body)


async def _decoded(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body in small pieces, so that a body that expands is stopped at the limit, and the event loop runs in between."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("identity", ""):
        async for piece in response.aiter_raw():
            yield piece
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise _failed("the server compressed its answer in a way that was not asked for")
    inflate = zlib.decompressobj(wbits=47)  # a gzip or a zlib header
    async for piece in response.aiter_raw():
        data = piece
        while not inflate.eof:
            inflated = inflate.decompress(data, _INFLATED_PIECE)
            yield inflated
            data = inflate.unconsumed_tail
            if not data and len(inflated) < _INFLATED_PIECE:
                break
            await asyncio.sleep(0)
        if inflate.eof:
            return
    raise zlib.error("incomplete data")


def _lookup(host: str) -> list[str]:
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _failed(message: str) -> InvalidInput:
    return InvalidInput(message, code="fetch_failed", field="url")


def _too_large(host: str, limit: int) -> InputTooLarge:
    return InputTooLarge(f"the picture at {host} has more than {limit} bytes", field="url")


def _transport_failure(error: httpx.TransportError, host: str) -> InvalidInput:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _failed(f"the certificate of {host} cannot be verified")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return _failed(f"{host} does not answer in time")
    if isinstance(error, httpx.ConnectError):
        return _failed(f"{host} cannot be connected to")
    return _failed(f"the connection to {host} broke off or is not HTTP")


def _join(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except httpx.InvalidURL as error:
        raise _failed(f"{url.host} redirects to a malformed address") from error


def _port(url: httpx.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, _port(url)


class NoFetcher:
    """``ImageFetcher`` of a service that fetches nothing."""

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:  # noqa: ARG002 - refused, whatever it is
        """Raise InvalidInput."""
        raise InvalidInput("this server fetches no pictures by URL: send the picture itself", code="fetch_disabled", field="url")

    async def close(self) -> None:
        """Nothing to release."""

"""Addresses of receivers: how they are written, and where they may lead."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from face_server.domain.addresses import is_peer, literal_address, plain_host
from face_server.errors import DeliveryRefused, InvalidInput, Unavailable

_RESOLVER_THREADS = 8
_MAX_TRIED_ADDRESSES = 3
_MAX_LENGTH = 2048
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_MAX_NAME_LENGTH = 253
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


LookUp = Callable[[str], Collection[str]]
"""From a host name to its addresses, best first; blocks; raises OSError where there are none."""


@dataclass(frozen=True, slots=True)
class Address:
    """A receiver: ``host`` is a name in ASCII or an address without brackets."""

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    path: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str) -> Address:
    """``host:port`` of a gRPC server. Raises InvalidInput (field ``address``)."""
    if set(text) & set("/@?#"):
        raise _bad("the address of a grpc sink is host:port, such as 192.168.1.5:50051, without a scheme or a path")
    split = _split(f"grpc://{text}")
    if split.port is None:
        raise _bad("the address of a grpc sink needs a port: host:port, such as 192.168.1.5:50051")
    return Address("grpc", _host(split), split.port)


def parse_url(text: str, default_ports: dict[str, int]) -> Address:
    """A URL whose scheme is one of ``default_ports``. Raises InvalidInput (field ``address``)."""
    schemes = " or ".join(f"{scheme}://" for scheme in default_ports)
    split = _split(text)
    if split.scheme not in default_ports:
        raise _bad(f"the address must start with {schemes}")
    if split.fragment:
        raise _bad("the address must not hold a #")
    port = default_ports[split.scheme] if split.port is None else split.port
    user, password = unquote(split.username or ""), unquote(split.password or "")
    return Address(split.scheme, _host(split), port, user, password, split.path, split.query)


def _split(text: str) -> SplitResult:
    if not text:
        raise _bad("the address is missing")
    if len(text) > _MAX_LENGTH:
        raise _bad(f"the address is longer than {_MAX_LENGTH} characters")
    if _UNPRINTABLE.search(text):
        raise _bad("the address holds blanks or control characters")
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError as error:
        raise _bad("the address is malformed: it needs a host, and a port of 1 to 65535") from error
    if port == 0:
        raise _bad("the port in the address must be 1 to 65535")
    return split


def _host(split: SplitResult) -> str:
    """The host, checked as far as that goes without looking it up."""
    host = plain_host(split.hostname or "")
    literal = literal_address(host)
    if literal is not None:
        if not is_peer(literal):
            raise InvalidInput(
                "the address is link-local, multicast or a cloud's metadata service, where no receiver may be",
                code="address_forbidden",
                field="address",
            )
        return literal
    try:
        name = host.encode("idna").decode("ascii") if host else ""
    except UnicodeError:
        name = ""
    if len(name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise _bad("the address names no host")
    return name


def _bad(message: str) -> InvalidInput:
    return InvalidInput(message, field="address")


class Resolver:
    """Looks up names of receivers, in threads of its own: a slow name server holds up nothing else."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        self._look_up = look_up or _look_up
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="sink-resolver")

    async def peers(self, address: Address) -> list[str]:
        """Where to connect to, best first, at most three.

        Raises Unavailable where the name leads nowhere and DeliveryRefused where it leads to a
        link-local or metadata address.
        """
        if literal_address(address.host) is not None:
            return [address.host]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._look_up, address.host)
        except (OSError, UnicodeError) as error:
            raise Unavailable("the host name of the receiver cannot be resolved", retry_after_s=0.0) from error
        if not all(map(is_peer, found)):
            raise DeliveryRefused("the host name of the receiver leads to a link-local, multicast or metadata address")
        return list(found)[:_MAX_TRIED_ADDRESSES]

    def close(self) -> None:
        """Start no more look-ups. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> Collection[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return dict.fromkeys(str(entry[4][0]) for entry in found)

"""Which network addresses a caller's URL may lead to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from face_server.errors import ConfigurationError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA IPv4 Special-Purpose Address Registry and multicast; the last is the host agent of one cloud,
# reachable from inside its machines only. The metadata services of the others are link-local.
_DENIED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    )
)

# All other IPv6 is loopback, link-local, unique local, multicast, NAT64 or not assigned.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")

# IANA IPv6 Special-Purpose Address Registry within 2000::/3: protocol assignments with Teredo,
# documentation, 6to4.
_DENIED_V6 = tuple(ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


def is_public(address: _Address) -> bool:
    """Whether ``address`` is a public unicast address; an IPv4 address mapped into IPv6 counts as itself."""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            return address in _GLOBAL_V6 and not any(address in network for network in _DENIED_V6)
        address = mapped
    return not any(address in network for network in _DENIED_V4)


# Link-local, which holds most metadata services of clouds, and what no single machine is at; then the
# metadata services and host agents of clouds that are elsewhere.
_NO_PEER_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
)
_NO_PEER_V6 = tuple(ipaddress.IPv6Network(network) for network in ("::/128", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128"))
# Well-known and local-use NAT64 (RFC 6052, RFC 8215), IPv4-translated (RFC 2765) and the old IPv4-compatible addresses.
_TRANSLATED_V6 = tuple(ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96"))


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to ``address`` end at, where it is mapped, translated or tunnelled."""
    if int(address) > 1 and any(address in network for network in _TRANSLATED_V6):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def is_peer(address: str) -> bool:
    """Whether a camera or a receiver that an operator names may be at ``address``.

    Public, private and loopback addresses are; link-local and multicast ones and the metadata
    services of clouds are not.
    """
    parsed: _Address = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _embedded_v4(parsed)
        if inner is None:
            return not any(parsed in network for network in _NO_PEER_V6)
        parsed = inner
    return not any(parsed in network for network in _NO_PEER_V4)


def is_loopback(address: str) -> bool:
    """Whether ``address`` is this machine's own, however it is written."""
    parsed: _Address = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = _embedded_v4(parsed) or parsed
    return parsed.is_loopback


def literal_address(host: str) -> str | None:
    """The address that ``host`` spells, None if it is a name; decimal, octal, hex and short IPv4 spellings included."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def plain_host(host: str) -> str:
    """Lower case and without the trailing dot of a fully qualified name."""
    return host.lower().removesuffix(".")


def _host_name(entry: str) -> str:
    try:
        name = plain_host(entry).encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not name or not all(character.isalnum() or character in "-._" for character in name):
        raise ConfigurationError(f"allowed_hosts holds {entry!r}; each entry is a host name, an address or a network like 10.1.0.0/16")
    return name


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Public addresses are permitted, and what an operator trusts: host names and networks."""

    names: frozenset[str]
    networks: tuple[_Network, ...]

    @classmethod
    def trusting(cls, entries: Sequence[str]) -> AddressPolicy:
        """Trust each of ``entries``: an exact host name, an address, or a network such as 10.1.0.0/16.

        Raises ConfigurationError for anything else, such as a URL or a name with a port.
        """
        names: set[str] = set()
        networks: list[_Network] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                names.add(_host_name(entry))
        return cls(frozenset(names), tuple(networks))

    def trusts_name(self, host: str) -> bool:
        """Whether ``host`` may lead anywhere."""
        return plain_host(host) in self.names

    def permits(self, address: str) -> bool:
        """Whether a connection to ``address`` is allowed for a name that is not trusted itself."""
        parsed: _Address = ipaddress.ip_address(address)
        plain = getattr(parsed, "ipv4_mapped", None) or parsed
        return is_public(parsed) or any(plain in network for network in self.networks)

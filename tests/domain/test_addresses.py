"""Which addresses URLs may lead to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.addresses import AddressPolicy, is_loopback, is_peer, is_public, literal_address
from face_server.errors import ConfigurationError

DENIED = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "4000::1",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", DENIED)
def test_denied(address: str) -> None:
    """Loopback, private, link-local, shared, reserved, multicast, metadata and translated addresses are denied."""
    assert not AddressPolicy.trusting([]).permits(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    """Public unicast addresses are permitted, next neighbours of denied networks included."""
    assert AddressPolicy.trusting([]).permits(address)


@given(st.ip_addresses())
def test_never_wider_than_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Whatever the standard library knows not to be global, or to be multicast, is denied here too."""
    if is_public(address):
        plain = getattr(address, "ipv4_mapped", None) or address
        assert plain.is_global
        assert not plain.is_multicast


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("example.org", None),
        ("1.2.3.4.example.org", None),
        ("localhost", None),
    ],
)
def test_spellings(host: str, address: str | None) -> None:
    """Decimal, octal, hexadecimal and short spellings are the address they spell; names are none."""
    assert literal_address(host) in ({address, "::ffff:7f00:1"} if host.startswith("::ffff") else {address})


def test_trusted_networks_and_addresses() -> None:
    """An allow list opens what it names and nothing beside it, also for mapped spellings."""
    policy = AddressPolicy.trusting(["10.1.0.0/16", "192.168.7.7", "fd12::/16"])
    for address in ("10.1.2.3", "192.168.7.7", "fd12::5", "::ffff:10.1.2.3"):
        assert policy.permits(address), address
    for address in ("10.2.0.1", "192.168.7.8", "fd13::5", "127.0.0.1"):
        assert not policy.permits(address), address


def test_trusted_names() -> None:
    """Names match exactly, without regard to case, the final dot, or the spelling of an IDN."""
    policy = AddressPolicy.trusting(["Camera.Lan", "münchen.example"])
    for host in ("camera.lan", "CAMERA.LAN.", "xn--mnchen-3ya.example"):
        assert policy.trusts_name(host), host
    for host in ("evil-camera.lan", "camera.lan.evil.org", "lan"):
        assert not policy.trusts_name(host), host


@pytest.mark.parametrize("entry", ["", "http://camera.lan", "camera.lan:80", "10.1.0.0/33", "10.1.2.3/16", "*.lan", "a b", ".", "a..b"])
def test_entries_that_are_none(entry: str) -> None:
    """What is no host name, address or network is refused at start, naming the entry."""
    with pytest.raises(ConfigurationError, match="allowed_hosts"):
        AddressPolicy.trusting([entry])


@pytest.mark.parametrize(
    "address", ["192.168.1.20", "10.0.0.7", "100.64.3.4", "127.0.0.1", "::1", "fd12::5", "8.8.8.8", "2606:4700::1111", "::ffff:10.0.0.7"]
)
def test_peers(address: str) -> None:
    """Cameras and receivers may be anywhere in private networks, on this machine and outside."""
    assert is_peer(address)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_no_peers(address: str) -> None:
    """Link-local, multicast and metadata addresses are never cameras or receivers, wrapped into IPv6 neither."""
    assert not is_peer(address)


@pytest.mark.parametrize(
    ("address", "own"), [("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("::2:1", False)]
)
def test_loopback(address: str, own: bool) -> None:
    """The machine's own addresses are known in every spelling."""
    assert is_loopback(address) is own

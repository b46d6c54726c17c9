"""What a destination may look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from face_server.domain.events import EventKind
from face_server.domain.streams import SinkKind, SinkSpec
from face_server.errors import ConfigurationError, InvalidInput
from face_server.sinks.opening import SinkOpener, address_of, check_sink
from face_server.workers import Workers
from tests.sinks.conftest import Opening
from tests.sinks.receivers import free_port, http_receiver

GRPC, WEBHOOK, MQTT, REDIS, LOG = SinkKind.GRPC, SinkKind.WEBHOOK, SinkKind.MQTT, SinkKind.REDIS, SinkKind.LOG


@pytest.mark.parametrize(
    ("spec", "authority"),
    [
        (SinkSpec(GRPC, "192.168.1.5:50051"), "192.168.1.5:50051"),
        (SinkSpec(GRPC, "Receiver.LOCAL.:50051", tls=True), "receiver.local:50051"),
        (SinkSpec(GRPC, "[fd00::5]:50051"), "[fd00::5]:50051"),
        (SinkSpec(WEBHOOK, "https://example.org/hook?x=1", secret="s"), "example.org:443"),
        (SinkSpec(WEBHOOK, "http://user:pass@10.0.0.1:8080/"), "10.0.0.1:8080"),
        (SinkSpec(WEBHOOK, "http://münchen.example/"), "xn--mnchen-3ya.example:80"),
        (SinkSpec(WEBHOOK, "http://my_service/"), "my_service:80"),
        (SinkSpec(MQTT, "mqtt://localhost"), "localhost:1883"),
        (SinkSpec(MQTT, "mqtts://me:secret@broker:9000/", topic="home/faces"), "broker:9000"),
        (SinkSpec(REDIS, "redis://127.0.0.1/3", topic="any key"), "127.0.0.1:6379"),
        (SinkSpec(REDIS, "rediss://:secret@cache:6380"), "cache:6380"),
        (SinkSpec(GRPC, "host:1", kinds=(EventKind.PERSON_SEEN, EventKind.PERSON_LEFT)), "host:1"),
    ],
)
def test_good_specs(spec: SinkSpec, authority: str) -> None:
    """Names, private and loopback addresses, credentials and the usual ports are fine."""
    check_sink(spec)
    address = address_of(spec)
    assert address is not None
    assert address.authority == authority


def test_the_log_needs_nothing() -> None:
    """The log has no address."""
    check_sink(SinkSpec(LOG))
    assert address_of(SinkSpec(LOG)) is None


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (SinkSpec(GRPC), "address"),
        (SinkSpec(GRPC, "10.1.1.1"), "address"),
        (SinkSpec(GRPC, "10.1.1.1:0"), "address"),
        (SinkSpec(GRPC, "10.1.1.1:65536"), "address"),
        (SinkSpec(GRPC, "10.1.1.1:port"), "address"),
        (SinkSpec(GRPC, ":50051"), "address"),
        (SinkSpec(GRPC, "http://192.168.1.5:50051"), "address"),
        (SinkSpec(GRPC, "user@host:50051"), "address"),
        (SinkSpec(GRPC, "host:50051/path"), "address"),
        (SinkSpec(GRPC, "host:50051#x"), "address"),
        (SinkSpec(GRPC, "ho st:50051"), "address"),
        (SinkSpec(GRPC, "[fd00::5:50051"), "address"),
        (SinkSpec(GRPC, "unix:/run/socket:1"), "address"),
        (SinkSpec(GRPC, "a..b:1"), "address"),
        (SinkSpec(GRPC, "host:50051", topic="t"), "topic"),
        (SinkSpec(GRPC, "host:50051", secret="s"), "secret"),
        (SinkSpec(WEBHOOK, "example.org/hook"), "address"),
        (SinkSpec(WEBHOOK, "ftp://example.org/"), "address"),
        (SinkSpec(WEBHOOK, "file:///etc/passwd"), "address"),
        (SinkSpec(WEBHOOK, "http://"), "address"),
        (SinkSpec(WEBHOOK, "http:///path"), "address"),
        (SinkSpec(WEBHOOK, "http://host/\r\nx: y"), "address"),
        (SinkSpec(WEBHOOK, "http://host/" + "a" * 3000), "address"),
        (SinkSpec(WEBHOOK, "http://169.254.169.254/latest"), "address"),
        (SinkSpec(WEBHOOK, "http://0xa9fea9fe/latest"), "address"),
        (SinkSpec(WEBHOOK, "http://[::ffff:169.254.169.254]/"), "address"),
        (SinkSpec(WEBHOOK, "http://[fe80::1%25eth0]/"), "address"),
        (SinkSpec(WEBHOOK, "http://0.0.0.0/"), "address"),
        (SinkSpec(WEBHOOK, "https://host/", tls=True), "tls"),
        (SinkSpec(WEBHOOK, "https://host/", secret="s" * 1000), "secret"),
        (SinkSpec(MQTT, "tcp://host"), "address"),
        (SinkSpec(MQTT, "mqtt://host/topic"), "address"),
        (SinkSpec(MQTT, "mqtt://host?x=1"), "address"),
        *(
            (SinkSpec(MQTT, "mqtt://host", topic=topic), "topic")
            for topic in ("a/+/b", "#", "/a", "a//b", "a/", "$SYS", "a\x00", "a" * 300)
        ),
        (SinkSpec(REDIS, "redis://host/keys"), "address"),
        (SinkSpec(REDIS, "rediss://host?ssl_cert_reqs=none"), "address"),
        (SinkSpec(REDIS, "unix:///run/redis.sock"), "address"),
        (SinkSpec(LOG, "host"), "address"),
        (SinkSpec(GRPC, "host:1", kinds=(EventKind.PERSON_LEFT, EventKind.STREAM_LOST)), "events"),
    ],
)
def test_bad_specs(spec: SinkSpec, field: str, opener: SinkOpener) -> None:
    """One sentence that names the field, and no part of the address; nothing is opened."""
    with pytest.raises(InvalidInput) as refusal:
        check_sink(spec)
    assert refusal.value.field == field
    assert "secret" not in refusal.value.message.replace("the secret", "").replace("a secret", "")
    assert spec.address not in refusal.value.message or len(spec.address) < 5
    with pytest.raises(InvalidInput):
        opener.open(spec)


def test_addresses_are_not_shown() -> None:
    """A parsed address does not print its credentials."""
    shown = repr(address_of(SinkSpec(MQTT, "mqtt://me:hunter2@broker")))
    assert "hunter2" not in shown
    assert "me" not in shown.replace("scheme", "")


async def test_reaching_nobody(opener: SinkOpener) -> None:
    """An address where nobody listens, and a name that leads nowhere, are told at once, naming the field."""
    for address in (f"127.0.0.1:{free_port()}", "nowhere.invalid:50051"):
        with pytest.raises(InvalidInput) as refusal:
            await opener.reach(SinkSpec(GRPC, address))
        assert (refusal.value.field, refusal.value.code) == ("address", "sink_unreachable")
    await opener.reach(SinkSpec(LOG))


async def test_reaching_somebody(opener: SinkOpener) -> None:
    """Who listens is left in peace."""
    async with http_receiver() as receiver:
        await opener.reach(receiver.spec)
        assert receiver.requests == []


def test_a_ca_file_that_is_none(opening: Opening, tmp_path: Path, workers: Workers) -> None:
    """Certificates that cannot be read end the start with a sentence."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match=path.name):
            opening(ca_file=path)

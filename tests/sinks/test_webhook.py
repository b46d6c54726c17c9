"""Webhooks against a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from face_server.clock import FakeClock
from face_server.domain.events import Event
from face_server.domain.streams import SinkKind, SinkSpec
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks.addresses import Resolver, parse_url
from face_server.sinks.opening import SinkOpener
from face_server.sinks.payload import event_payload
from face_server.sinks.webhook import Webhook, WebhookOptions, signature
from face_server.workers import Workers
from tests.sinks.conftest import Opening
from tests.sinks.receivers import HttpReceiver, event, http_receiver


def answer(status: int, *headers: str) -> bytes:
    """An answer without a body."""
    return "\r\n".join([f"HTTP/1.1 {status} Reason", "content-length: 0", *headers, "", ""]).encode()


async def post(opener: SinkOpener, receiver: HttpReceiver, what: Event | None = None, pictures: dict[str, bytes] | None = None) -> None:
    """Deliver one event through a fresh sink."""
    sink = opener.open(receiver.spec)
    try:
        await sink.deliver(what or event(1), pictures or {})
    finally:
        await sink.close()


async def test_what_is_sent(opener: SinkOpener) -> None:
    """The event as JSON, its id, the time, and a signature that the receiver can check by itself."""
    async with http_receiver() as receiver:
        before = int(time.time())
        await post(opener, receiver, event(1), {"best": b"jpeg"})
        (request,) = receiver.requests
    assert request.line == "POST /hook?a=b HTTP/1.1"
    assert request.json == event_payload(event(1))
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"localhost:{receiver.port}"
    assert request.headers["x-face-server-event"] == "event000001"
    timestamp = request.headers["x-face-server-timestamp"]
    assert before <= int(timestamp) <= before + 5
    expected = hmac.new(b"shared secret", timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-face-server-signature"] == f"t={timestamp},v1={expected}"
    assert b"shared secret" not in request.body


def test_the_signature_is_fixed() -> None:
    """A worked example, for the documentation: a change here breaks every receiver."""
    assert signature("key", 1700000000, b"{}") == ("t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae")


async def test_without_a_secret_nothing_is_signed(opener: SinkOpener) -> None:
    """No signature rather than one with an empty key."""
    async with http_receiver(secret="") as receiver:
        await post(opener, receiver)
        assert "x-face-server-signature" not in receiver.requests[0].headers


async def test_pictures_by_option(opening: Opening) -> None:
    """With the option the pictures of the event are part of the body, those that are there."""
    async with http_receiver() as receiver:
        await post(opening(webhook_pictures=True), receiver, event(1), {"best": b"jpeg", "other": b"no"})
        assert receiver.requests[0].json["pictures"] == {"picture": base64.b64encode(b"jpeg").decode()}
        await post(opening(), receiver, event(2), {"best": b"jpeg"})
        assert "pictures" not in receiver.requests[1].json


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
async def test_answers_that_ask_for_another_try(opener: SinkOpener, status: int) -> None:
    """Time-outs, too many requests and errors of the server may pass."""
    async with http_receiver(answers=[answer(status)]) as receiver:
        with pytest.raises(Unavailable, match=str(status)) as failure:
            await post(opener, receiver)
    assert failure.value.retry_after_s == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
async def test_answers_that_refuse(opener: SinkOpener, status: int) -> None:
    """Other answers are for good."""
    async with http_receiver(answers=[answer(status)]) as receiver:
        with pytest.raises(DeliveryRefused, match=str(status)):
            await post(opener, receiver)


async def test_redirects_are_not_followed(opener: SinkOpener) -> None:
    """Whoever answers for the address cannot send events elsewhere."""
    async with http_receiver() as elsewhere, http_receiver() as receiver:
        for status in (301, 302, 303, 307, 308):
            receiver.answers.append(answer(status, f"location: http://localhost:{elsewhere.port}/"))
            with pytest.raises(DeliveryRefused, match="redirects"):
                await post(opener, receiver)
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("86400", 3600.0),
        (format_datetime(datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(1_600_000_000, UTC), usegmt=True), 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("", 0.0),
    ],
)
async def test_retry_after(workers: Workers, value: str, wait_s: float) -> None:
    """The receiver may say when to come again, in seconds or as a date; an hour is the most."""
    resolver = Resolver()
    async with http_receiver(answers=[answer(503, f"retry-after: {value}")]) as receiver:
        address = parse_url(receiver.spec.address, {"http": 80})
        sink = Webhook(address, "", WebhookOptions(), ssl.create_default_context(), resolver, workers, FakeClock(1_700_000_000.0))
        with pytest.raises(Unavailable) as failure:
            await sink.deliver(event(1), {})
        await sink.close()
    resolver.close()
    assert failure.value.retry_after_s == pytest.approx(wait_s)


async def test_credentials_in_the_address(opener: SinkOpener) -> None:
    """A user name and a password become basic authentication."""
    async with http_receiver() as receiver:
        spec = SinkSpec(SinkKind.WEBHOOK, f"http://me:p%40ss@localhost:{receiver.port}/")
        sink = opener.open(spec)
        await sink.deliver(event(1), {})
        await sink.close()
        assert receiver.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()


async def test_tls(opening: Opening, server_tls: ssl.SSLContext, ca_file: Path) -> None:
    """The certificate is verified for the name in the address, with the operator's own authority beside the usual ones."""
    async with http_receiver(scheme="https", tls=server_tls) as receiver:
        await post(opening(ca_file=ca_file), receiver)
        with pytest.raises(Unavailable, match="certificate"):
            await post(opening(), receiver)
        other_name = SinkSpec(SinkKind.WEBHOOK, f"https://127.0.0.1:{receiver.port}/")
        sink = opening(ca_file=ca_file).open(other_name)
        with pytest.raises(Unavailable, match="certificate"):
            await sink.deliver(event(2), {})
        await sink.close()
        assert await receiver.received() == ["event000001"]


async def test_an_endless_answer(opener: SinkOpener) -> None:
    """A receiver that never stops talking costs neither time nor memory: its status line is the receipt."""
    async with http_receiver(answers=[b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 200_000]) as receiver:
        started = time.monotonic()
        await post(opener, receiver)
        assert time.monotonic() - started < 1.0


async def test_no_http(opener: SinkOpener) -> None:
    """Something that speaks another protocol is told as such."""
    async with http_receiver(answers=[b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]) as receiver:
        with pytest.raises(Unavailable, match="not HTTP"):
            await post(opener, receiver)


async def test_a_connection_is_used_again(opener: SinkOpener) -> None:
    """Events follow each other on one connection."""
    async with http_receiver() as receiver:
        sink = opener.open(receiver.spec)
        for number in range(5):
            await sink.deliver(event(number), {})
        await sink.close()
        assert receiver.connections == 1


async def test_a_name_that_leads_to_the_metadata_service(workers: Workers) -> None:
    """Names are checked where they lead, at every delivery."""
    places = {"inside.example": ["169.254.169.254"], "mixed.example": ["127.0.0.1", "169.254.169.254"]}
    resolver = Resolver(lambda host: places[host])
    for host in places:
        address = parse_url(f"http://{host}/latest", {"http": 80})
        sink = Webhook(address, "", WebhookOptions(), ssl.create_default_context(), resolver, workers, FakeClock())
        with pytest.raises(DeliveryRefused, match="metadata"):
            await sink.deliver(event(1), {})
        await sink.close()
    resolver.close()


async def test_the_next_address_of_a_name(workers: Workers) -> None:
    """Where the first address of a name takes no connection, the next one is tried."""
    resolver = Resolver(lambda _: ["127.0.0.9", "127.0.0.1"])
    async with http_receiver() as receiver:
        address = parse_url(f"http://two.example:{receiver.port}/", {"http": 80})
        sink = Webhook(address, "", WebhookOptions(), ssl.create_default_context(), resolver, workers, FakeClock())
        await sink.deliver(event(1), {})
        await sink.close()
        assert receiver.requests[0].headers["host"] == f"two.example:{receiver.port}"
    resolver.close()

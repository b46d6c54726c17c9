"""From the description of a destination to the sink that delivers there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from face_server.domain.events import ALERTS
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import EventSink
from face_server.domain.streams import SinkKind, SinkSpec
from face_server.errors import ConfigurationError, DeliveryRefused, InvalidInput, Unavailable
from face_server.sinks.addresses import Address, Resolver, parse_host_port, parse_url
from face_server.sinks.grpc_callback import GrpcCallback, GrpcOptions
from face_server.sinks.log import LogSink
from face_server.sinks.mqtt import MqttOptions, MqttSink
from face_server.sinks.redis import RedisOptions, RedisSink
from face_server.sinks.webhook import Webhook, WebhookOptions
from face_server.workers import Workers

_WEBHOOK_PORTS = {"http": 80, "https": 443}
_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_REDIS_PORTS = {"redis": 6379, "rediss": 6379}
_MAX_TOPIC = 200
_MAX_SECRET = 512
# A leading $ is the broker's own; levels may be neither empty nor wild.
_MQTT_PREFIX = re.compile(r"[^$/+#\x00-\x1f\x7f][^/+#\x00-\x1f\x7f]*(/[^/+#\x00-\x1f\x7f]+)*")


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """How events leave.

    A delivery ends after ``timeout_s``. ``ca_file`` holds certificates in PEM that are trusted beside
    the usual ones. ``webhook_pictures`` puts JPEGs into webhooks. ``redis_max_length`` is about how
    many entries a Redis stream keeps. ``discovery_prefix`` is Home Assistant's, "" announces nothing.
    """

    timeout_s: float = 10.0
    ca_file: Path | None = None
    webhook_pictures: bool = False
    redis_max_length: int = 100_000
    discovery_prefix: str = "homeassistant"


def check_sink(spec: SinkSpec) -> None:
    """Raise InvalidInput, naming the field (``events``: ``kinds``), for a spec that cannot work. Asks nobody."""
    address_of(spec)
    if spec.topic and spec.kind not in (SinkKind.MQTT, SinkKind.REDIS):
        raise InvalidInput(f"a {spec.kind} sink takes no topic", field="topic")
    if len(spec.topic) > _MAX_TOPIC:
        raise InvalidInput(f"the topic has more than {_MAX_TOPIC} characters", field="topic")
    if spec.topic and spec.kind is SinkKind.MQTT and not _MQTT_PREFIX.fullmatch(spec.topic):
        raise InvalidInput("the topic is a prefix such as home/faces: no + or #, no empty level, no $ in front", field="topic")
    if spec.secret and spec.kind is not SinkKind.WEBHOOK:
        raise InvalidInput(f"a secret signs webhooks; a {spec.kind} sink takes none", field="secret")
    if len(spec.secret) > _MAX_SECRET:
        raise InvalidInput(f"the secret has more than {_MAX_SECRET} characters", field="secret")
    if spec.tls and spec.kind is not SinkKind.GRPC:
        raise InvalidInput(f"the scheme of the address says whether a {spec.kind} sink uses TLS; leave tls out", field="tls")
    if spec.kinds and not any(map(spec.wants, spec.kinds)):
        raise InvalidInput(f"a {spec.kind} sink carries none of these events, only {' and '.join(sorted(ALERTS))}", field="events")


def address_of(spec: SinkSpec) -> Address | None:
    """Where ``spec`` leads, None for the log. Raises InvalidInput (field ``address``)."""
    if spec.kind is SinkKind.LOG:
        if spec.address:
            raise InvalidInput("a log sink takes no address", field="address")
        return None
    if spec.kind is SinkKind.GRPC:
        return parse_host_port(spec.address)
    if spec.kind is SinkKind.WEBHOOK:
        return parse_url(spec.address, _WEBHOOK_PORTS)
    address = parse_url(spec.address, _MQTT_PORTS if spec.kind is SinkKind.MQTT else _REDIS_PORTS)
    if address.query:
        raise InvalidInput("the address must not hold a ?", field="address")
    if spec.kind is SinkKind.MQTT and address.path.strip("/"):
        raise InvalidInput("the address of a broker has no path", field="address")
    if spec.kind is SinkKind.REDIS and not re.fullmatch(r"(/[0-9]{0,5})?", address.path):
        raise InvalidInput("the path in the address of Redis is the number of a database, such as /0", field="address")
    return address


class SinkOpener:
    """Makes sinks. Reads certificates when it is made, which takes tens of milliseconds: not on a busy event loop."""

    def __init__(self, workers: Workers, clock: Clock, options: SinkOptions = SinkOptions()) -> None:
        self._workers = workers
        self._clock = clock
        self._options = options
        self._resolver = Resolver()
        # One each: HTTP writes its own protocol names into its context.
        self._http_trust = _trust(options.ca_file)
        self._mqtt_trust = _trust(options.ca_file)
        own = options.ca_file is not None
        authorities = self._mqtt_trust.get_ca_certs(binary_form=True) if own else []
        self._ca_pem = "".join(map(ssl.DER_cert_to_PEM_cert, authorities)) or None

    def open(self, spec: SinkSpec) -> EventSink:
        """The sink of ``spec``, which connects with its first event. Raises InvalidInput as ``check_sink`` does."""
        check_sink(spec)
        address = address_of(spec)
        options, resolver = self._options, self._resolver
        if address is None:
            return LogSink()
        if spec.kind is SinkKind.GRPC:
            return self._grpc(address, tls=spec.tls)
        if spec.kind is SinkKind.WEBHOOK:
            webhook = WebhookOptions(options.webhook_pictures, options.timeout_s)
            return Webhook(address, spec.secret, webhook, self._http_trust, resolver, self._workers, self._clock)
        if spec.kind is SinkKind.MQTT:
            mqtt = MqttOptions(options.discovery_prefix, options.timeout_s)
            return MqttSink(address, spec.topic, mqtt, self._mqtt_trust, resolver, self._clock)
        redis = RedisOptions(options.redis_max_length, options.timeout_s, self._ca_pem)
        return RedisSink(address, spec.topic, redis, resolver)

    def callback(self, address: str) -> GrpcCallback:
        """A gRPC callback for calls that are no events. Raises InvalidInput (field ``address``)."""
        return self._grpc(parse_host_port(address), tls=False)

    def _grpc(self, address: Address, *, tls: bool) -> GrpcCallback:
        return GrpcCallback(address, GrpcOptions(tls, self._options.timeout_s, self._ca_pem), self._resolver, self._workers)

    async def reach(self, spec: SinkSpec, *, timeout_s: float = 3.0) -> None:
        """See whether somebody listens at the address of ``spec``; nothing is sent.

        Raises InvalidInput (code ``sink_unreachable``, field ``address``) where nobody does.
        """
        check_sink(spec)
        address = address_of(spec)
        if address is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await _connect(await self._resolver.peers(address), address.port)
        except (TimeoutError, OSError) as error:
            message = f"nobody listens at the address of the {spec.kind} sink"
            raise InvalidInput(message, code="sink_unreachable", field="address") from error
        except (Unavailable, DeliveryRefused) as error:
            raise InvalidInput(error.message, code="sink_unreachable", field="address") from error

    def close(self) -> None:
        """End the threads of the resolver; sinks are closed by who opened them. Idempotent."""
        self._resolver.close()


async def _connect(peers: list[str], port: int) -> None:
    """Connect to one of ``peers`` and hang up. Raises OSError if none takes the connection."""
    for index, peer in enumerate(peers):
        try:
            _, writer = await asyncio.open_connection(peer, port)
        except OSError:
            if index + 1 == len(peers):
                raise
        else:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise ConfigurationError(f"the certificates of {ca_file} cannot be read: {error.strerror or 'not PEM'}") from error
    return context

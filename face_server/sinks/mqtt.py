"""Events as MQTT messages, with what Home Assistant needs to show them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from aiomqtt import MqttError

from face_server.domain.events import Event
from face_server.domain.ports import Clock
from face_server.errors import Unavailable
from face_server.sinks.addresses import Address, Resolver
from face_server.sinks.home_assistant import availability_topic, discovery_messages, event_messages
from face_server.sinks.mqtt_connection import Link, MqttConnection

DEFAULT_PREFIX = "face_server"


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """``discovery_prefix`` is Home Assistant's; without one nothing is announced to it."""

    discovery_prefix: str = "homeassistant"
    timeout_s: float = 10.0


class MqttSink:
    """Publishes each event at QoS 1 as ``<prefix>/<stream>/event``, and the states of ``home_assistant``."""

    wants_pictures = False

    def __init__(
        self, address: Address, prefix: str, options: MqttOptions, trust: ssl.SSLContext, resolver: Resolver, clock: Clock
    ) -> None:
        self._prefix = prefix or DEFAULT_PREFIX
        self._options = options
        self._connection = MqttConnection(address, availability_topic(self._prefix), trust, resolver, clock)
        self._introduced_by: Link | None = None
        self._introduced: set[str] = set()

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:  # noqa: ARG002 - the port's signature
        """Publish the event; returns when the broker has acknowledged it."""
        timeout_s = self._options.timeout_s
        link: Link | None = None
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._connection.link()
                await self._introduce(link, event.stream_id)
                for message in event_messages(self._prefix, event):
                    await link.publish(message.topic, message.payload, retain=message.retain)
        except TimeoutError as error:
            self._drop(link)
            raise Unavailable(f"the broker did not answer within {timeout_s:g} s", retry_after_s=0.0) from error
        except MqttError as error:
            self._drop(link)
            raise Unavailable("the connection to the broker broke off", retry_after_s=0.0) from error

    async def close(self) -> None:
        """Say goodbye and disconnect."""
        await self._connection.close()

    async def _introduce(self, link: Link, stream_id: str) -> None:
        """Describe a stream to Home Assistant, once a connection."""
        if not self._options.discovery_prefix:
            return
        if self._introduced_by is not link:
            self._introduced_by = link
            self._introduced.clear()
        if stream_id not in self._introduced:
            for message in discovery_messages(self._options.discovery_prefix, self._prefix, stream_id):
                await link.publish(message.topic, message.payload, retain=message.retain)
            self._introduced.add(stream_id)

    def _drop(self, link: Link | None) -> None:
        if link is not None:
            self._connection.drop(link)

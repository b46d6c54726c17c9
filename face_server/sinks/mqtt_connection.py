"""A connection to an MQTT broker that is made when it is first needed, and again whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

from aiomqtt import Client, MqttError, Will
from aiomqtt.exceptions import MqttConnectError

from face_server.domain.ports import Clock
from face_server.errors import FaceServerError, Unavailable
from face_server.sinks.addresses import Address, Resolver

_KEEPALIVE_S = 15
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 60.0
_GOODBYE_S = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A connected client, for as long as the connection lasts."""

    client: Client
    ended: asyncio.Event

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1; returns with the broker's receipt. Raises MqttError at once when the connection ends before."""
        sending = asyncio.create_task(self.client.publish(topic, payload, qos=1, retain=retain))
        ending = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise MqttError("the connection ended")
            sending.result()
        finally:
            await _cancel((sending, ending))


class MqttConnection:
    """Keeps one client connected, in a task of its own.

    ``presence`` is a topic that is retained ``online`` while connected; the broker sets it to
    ``offline`` when the connection ends, however it ends.
    """

    def __init__(self, address: Address, presence: str, trust: ssl.SSLContext, resolver: Resolver, clock: Clock) -> None:
        self._address = address
        self._presence = presence
        self._trust = trust
        self._resolver = resolver
        self._clock = clock
        self._keeper: asyncio.Task[None] | None = None
        self._current: Link | None = None
        self._wanted = asyncio.Event()
        self._waiting: asyncio.Future[Link] | None = None
        self._closed = False

    async def link(self) -> Link:
        """The live connection; a pause between attempts ends at once. Raises what the next attempt fails with."""
        if self._closed:
            raise Unavailable("the connection to the broker is closed", retry_after_s=0.0)
        if self._current is not None:
            return self._current
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="mqtt connection")
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        self._wanted.set()
        return await asyncio.shield(self._waiting)

    def drop(self, link: Link) -> None:
        """Connect anew: ``link`` does not answer."""
        link.ended.set()
        if link is self._current:
            self._current = None

    async def close(self) -> None:
        """Say goodbye and disconnect. Idempotent."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self._fail(Unavailable("the connection to the broker is closed", retry_after_s=0.0))

    async def _keep(self) -> None:
        """Connect and connect again, until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._wanted.clear()
            try:
                async with self._connected() as client:
                    pause_s = _FIRST_PAUSE_S
                    await self._serve(client)
            except (MqttError, TimeoutError) as failure:
                self._fail(Unavailable(_reason(failure), retry_after_s=0.0))
            except FaceServerError as failure:
                self._fail(failure)
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        """A client whose connection is let go of on every way out."""
        await self._resolver.peers(self._address)
        address = self._address
        client = Client(
            address.host,
            address.port,
            username=address.user or None,
            password=address.password or None,
            will=Will(self._presence, b"offline", qos=1, retain=True),
            timeout=_CONNECT_S,
            keepalive=_KEEPALIVE_S,
            tls_context=self._trust if address.scheme == "mqtts" else None,
        )
        try:
            await client.__aenter__()
            yield client
        finally:
            # Also where connecting failed half-way: the socket may be open. A broker that is gone says no goodbye.
            with contextlib.suppress(MqttError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await client.__aexit__(None, None, None)

    async def _serve(self, client: Client) -> None:
        """Hand the client out until it is lost."""
        link = Link(client, asyncio.Event())
        breaking = asyncio.create_task(_break(link))
        try:
            await link.publish(self._presence, b"online", retain=True)
            self._current = link
            waiting, self._waiting = self._waiting, None
            if waiting is not None and not waiting.done():
                waiting.set_result(link)
            await link.ended.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(MqttError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await link.publish(self._presence, b"offline", retain=True)
            raise
        finally:
            self._current = None
            link.ended.set()
            await _cancel((breaking,))

    def _fail(self, error: FaceServerError) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
            # Who waited may have left meanwhile, which is no mistake.
            waiting.exception()

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or until the connection is wanted."""
        ends: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.create_task(self._wanted.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(ends)


async def _break(link: Link) -> None:
    """Notice that the connection broke: nothing is subscribed to, so the iteration ends with the connection alone."""
    try:
        async for _ in link.client.messages:
            pass
    except MqttError:
        link.ended.set()


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reason(failure: MqttError | TimeoutError) -> str:
    if isinstance(failure, MqttConnectError):
        return "the broker refuses the connection: check user name and password"
    return "the broker cannot be connected to"

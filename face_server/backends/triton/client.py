"""Models on one or more Triton servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, Self

from face_server.backends.triton import wire
from face_server.backends.triton.admission import Admission
from face_server.backends.triton.connection import Connection, credentials
from face_server.backends.triton.cuda_regions import CudaRegions
from face_server.backends.triton.endpoint import Endpoint, Standing
from face_server.backends.triton.errors import Failed
from face_server.backends.triton.expectations import Expected, of_network, of_pipeline
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.backends.triton.payload import Payload
from face_server.backends.triton.regions import RegionPool, SystemRegions, remove_regions_of_the_dead
from face_server.domain.embedding import ModelId
from face_server.domain.network import Network
from face_server.domain.ports import Clock, Tensors
from face_server.errors import Unavailable
from face_server.workers import Workers

_log = logging.getLogger(__name__)

_DECODE_HERE_BYTES: Final = 1024 * 1024
"""Reading more than this takes longer than going to a worker thread and back."""

_CLOSED: Final = "the connection to Triton is closed"


class TritonClient:
    """Runs models on the servers of ``options``; implements ``domain.ports.RemoteModels``.

    A call goes to the server with the fewest calls under way. Inference has no effects that last,
    so that a call which a server could not answer because it went away is given to another one,
    within its time. Everything of one client belongs to one event loop.
    """

    def __init__(
        self, options: TritonOptions, workers: Workers, clock: Clock, expected: Sequence[Expected], pool: RegionPool | None
    ) -> None:
        self._options = options
        self._workers = workers
        self._clock = clock
        self._expected = {one.model for one in expected}
        self._pool = pool
        self._admission = Admission(options.max_concurrent, options.max_waiting)
        self._endpoints: list[Endpoint] = []
        self._turn = 0
        self._news = asyncio.Event()
        self._calls = 0
        self._closed = False

    @classmethod
    async def open(
        cls, options: TritonOptions, workers: Workers, clock: Clock, networks: Sequence[Network], *, pipeline: ModelId | None = None
    ) -> Self:
        """Connect, and compare the models of the servers with ``networks``.

        With ``pipeline`` they must also run a ``face_pipeline`` that embeds by that model. A server
        that is away is no error: calls are Unavailable until it is there. Raises WeightsError or
        ConfigurationError for a model that is not what it should be, and ConfigurationError for
        certificate files, or a kind of shared memory, that cannot be used.
        """
        expected = [of_network(network) for network in networks]
        if pipeline is not None:
            expected.append(of_pipeline(pipeline, networks))
        secrets = await credentials(options, workers)
        pool = await _open_pool(options, workers)
        client = cls(options, workers, clock, expected, pool)
        client._endpoints = [
            Endpoint(address, Connection(address, options, secrets), expected, options, workers, clock, client._announce)
            for address in options.endpoints
        ]
        try:
            await client._first_look()
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def workers(self) -> Workers:
        """The threads for work that would block the event loop."""
        return self._workers

    @property
    def description(self) -> str:
        """Version, addresses and the way of the tensors: "triton 2.51.0 at 127.0.0.1:8001 (system shared memory)"."""
        version = next((endpoint.version for endpoint in self._endpoints if endpoint.version), "")
        addresses = ", ".join(endpoint.address for endpoint in self._endpoints)
        shares = self._pool is not None and any(endpoint.shares_memory for endpoint in self._endpoints)
        way = self._pool.kind if shares and self._pool is not None else "network"
        return f"triton {version} at {addresses} ({way})" if version else f"triton at {addresses} (away)"

    async def call(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Run ``model`` once; see ``RemoteModels.call``. Raises Overloaded when too many calls wait."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._options.timeout_s
        async with self._admission.slot(deadline_s):
            payload = Payload(model, inputs, outputs, self._pool, self._workers, self._options.max_message_bytes)
            self._calls += 1
            try:
                answer = await self._send(payload, deadline_s)
            finally:
                payload.release()
                self._calls -= 1
                if self._closed:
                    self._announce()
        if len(answer) > _DECODE_HERE_BYTES:
            return await self._workers.run(wire.decode, answer, model, outputs)
        return wire.decode(answer, model, outputs)

    async def batch_limit(self, model: str) -> int:
        """The most rows that one call of ``model`` may have on every server that runs it, 0 for no limit.

        Raises Unavailable when no server runs it.
        """
        loop = asyncio.get_running_loop()
        await self._usable(model, loop.time() + self._options.timeout_s)
        limits = [endpoint.batch_limits.get(model, 0) for endpoint in self._endpoints if model not in endpoint.missing]
        return min((limit for limit in limits if limit), default=0)

    def ready(self, model: str) -> bool:
        """Whether ``model`` is one of those it was opened with, and some server runs it now."""
        return not self._closed and model in self._expected and any(endpoint.serves(model) for endpoint in self._endpoints)

    async def close(self) -> None:
        """End every call with Unavailable, every connection, and remove all shared memory. Idempotent."""
        self._closed = True
        self._announce()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.connect_timeout_s):
                while self._calls:
                    await self._news.wait()
        if self._pool is not None:
            await self._pool.close()

    async def _first_look(self) -> None:
        """Wait until every server was found right, wrong or away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._options.connect_timeout_s):
                while any(endpoint.standing is Standing.CHECKING for endpoint in self._endpoints):
                    await self._news.wait()
        for endpoint in self._endpoints:
            if endpoint.standing is Standing.WRONG and endpoint.difference is not None:
                raise endpoint.difference

    async def _send(self, payload: Payload, deadline_s: float) -> bytes:
        """Try servers until one answers, the time is over, or trying again could not help."""
        tried: set[Endpoint] = set()
        loop = asyncio.get_running_loop()
        while True:
            endpoint = await self._choose(payload.model, deadline_s, tried)
            try:
                return await endpoint.infer(payload, deadline_s - loop.time())
            except Failed as failed:
                fault, again = failed.fault, endpoint in tried
                tried.add(endpoint)
                # The last server is asked a second time: it may have been started anew in between, or have another instance.
                over = tried.issuperset(self._endpoints) and (again or not (fault.endpoint or fault.instance_dead))
                if self._closed or not fault.elsewhere or over:
                    raise (Unavailable(_CLOSED) if self._closed else fault.error) from failed

    async def _choose(self, model: str, deadline_s: float, tried: set[Endpoint]) -> Endpoint:
        """The server for the next attempt: an untried one with the fewest calls under way, in turn. Raises as ``_usable``."""
        usable = await self._usable(model, deadline_s)
        self._turn += 1
        return min(
            (usable[(self._turn + number) % len(usable)] for number in range(len(usable))),
            key=lambda endpoint: (endpoint in tried, endpoint.in_flight),
        )

    async def _usable(self, model: str, deadline_s: float) -> list[Endpoint]:
        """The servers that run ``model`` now. Raises Unavailable at once when all are away."""
        while True:
            if self._closed:
                raise Unavailable(_CLOSED)
            usable = [endpoint for endpoint in self._endpoints if endpoint.serves(model)]
            if usable:
                return usable
            if all(endpoint.standing is not Standing.CHECKING for endpoint in self._endpoints):
                raise self._unavailable(model)
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._news.wait()
            except TimeoutError as error:
                raise self._unavailable(model) from error

    def _unavailable(self, model: str) -> Unavailable:
        refusals = [endpoint.refusal(model) for endpoint in self._endpoints]
        return Unavailable("; ".join(one.message for one in refusals), retry_after_s=min(one.retry_after_s for one in refusals))

    def _announce(self) -> None:
        """Wake whoever waits for a server."""
        news, self._news = self._news, asyncio.Event()
        news.set()


async def _open_pool(options: TritonOptions, workers: Workers) -> RegionPool | None:
    match options.shared_memory:
        case SharedMemory.OFF:
            return None
        case SharedMemory.CUDA:
            return await CudaRegions.open(options.cuda_device, options.shared_memory_bytes, workers)
        case _:
            if dead := await workers.run(remove_regions_of_the_dead):
                _log.info("removed %d shared memory regions that an earlier process left behind", len(dead))
            return SystemRegions(options.shared_memory_bytes, workers)

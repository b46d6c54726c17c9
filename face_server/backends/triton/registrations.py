"""Which regions of shared memory one server knows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import grpc
from tritonclient.grpc import service_pb2

from face_server.backends.triton.connection import Connection
from face_server.backends.triton.regions import PREFIX, Region, Registration, exists, make_region
from face_server.workers import Workers

_log = logging.getLogger(__name__)

_PROBE_BYTES: Final = 4096


class Registrations:
    """Tells a server of regions when a call first needs them, and again after the server was started anew."""

    def __init__(self, connection: Connection, workers: Workers) -> None:
        self._connection = connection
        self._workers = workers
        self._known: dict[str, Region] = {}

    async def sees_this_host(self) -> bool:
        """Whether the server finds memory of this host by name. Raises AioRpcError when it is away."""
        try:
            region = await make_region(_PROBE_BYTES, self._workers)
        except OSError as error:
            _log.warning("this process cannot make shared memory: %s", error)
            return False
        try:
            await self._tell(region.registration)
            await self._tell(region.withdrawal)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
            return False
        finally:
            # Even if whoever waits for it leaves.
            await asyncio.shield(asyncio.ensure_future(self._workers.run(region.close)))
        return True

    async def forget_the_dead(self) -> None:
        """Let the server, which sees this host's memory, forget regions of this program whose files are gone."""
        status = await self._connection.ask("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest())
        for name in status.regions:
            if name.startswith(PREFIX) and not await self._workers.run(exists, name):
                # The server keeps a region that a call still reads; the next start will find it unused.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self._connection.ask("SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(name=name))

    async def ensure(self, region: Region) -> None:
        """Make sure that the server knows ``region``. Raises AioRpcError."""
        if region.name in self._known:
            return
        try:
            await self._tell(region.registration)
        except grpc.aio.AioRpcError as error:
            # Another call was faster: names are unique.
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        self._known[region.name] = region

    def lost(self, region: Region) -> None:
        """The server does not know ``region`` any more."""
        self._known.pop(region.name, None)

    def all_lost(self) -> None:
        """The server may have been started anew."""
        self._known.clear()

    async def withdraw(self) -> None:
        """Let the server forget all regions; those that it still reads stay until somebody cleans up."""
        known, self._known = self._known, {}
        for region in known.values():
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._tell(region.withdrawal)

    async def _tell(self, registration: Registration) -> None:
        await self._connection.ask(registration.method, registration.request)

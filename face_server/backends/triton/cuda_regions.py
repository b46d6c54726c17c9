"""Memory of a GPU that servers on the same host read tensors from, through tritonclient's CUDA module.

This module has never run: it was written from the documentation of tritonclient, on machines without
a GPU. Everything else of the client is tested on a real server.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from face_server.backends.triton.buddy import power_of_two
from face_server.backends.triton.regions import ALIGNMENT, PREFIX, Lease, Registration
from face_server.errors import ConfigurationError
from face_server.workers import Workers

_SMALLEST: Final = 1024 * 1024


class CudaRegion:
    """Memory allocated on ``device``; blocks while it is made."""

    def __init__(self, cuda: Any, size: int, device: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}_{secrets.token_hex(6)}"
        self.size = size
        self._cuda = cuda
        self._device = device
        self._handle = cuda.create_shared_memory_region(self.name, size, device)

    @property
    def registration(self) -> Registration:
        """By the handle that CUDA gives to other processes."""
        handle = base64.b64decode(self._cuda.get_raw_handle(self._handle))
        request = service_pb2.CudaSharedMemoryRegisterRequest(
            name=self.name, raw_handle=handle, device_id=self._device, byte_size=self.size
        )
        return Registration("CudaSharedMemoryRegister", request)

    @property
    def withdrawal(self) -> Registration:
        """By its name."""
        return Registration("CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest(name=self.name))

    def write(self, offset: int, tensors: Sequence[NDArray[Any]]) -> None:
        """Copy ``tensors`` to the GPU; ``offset`` is always 0, as each lease is a region of its own."""
        assert offset == 0
        pieces: list[NDArray[Any]] = []
        for tensor in tensors:
            pieces += (tensor, np.zeros(-tensor.nbytes % ALIGNMENT, np.uint8))
        self._cuda.set_shared_memory_region(self._handle, pieces)

    def close(self) -> None:
        """Free the memory."""
        self._cuda.destroy_shared_memory_region(self._handle)


class CudaRegions:
    """GPU memory of at most ``limit_bytes``: one region a lease, sizes in powers of two, kept for later calls."""

    kind = "CUDA shared memory"

    def __init__(self, cuda: Any, device: int, limit_bytes: int, workers: Workers) -> None:
        self._cuda = cuda
        self._device = device
        self._left = limit_bytes
        self._workers = workers
        self._free: dict[int, list[CudaRegion]] = {}
        self._lent: dict[CudaRegion, Lease] = {}
        self._closed = False

    @classmethod
    async def open(cls, device: int, limit_bytes: int, workers: Workers) -> CudaRegions:
        """Raises ConfigurationError where CUDA's Python package or the GPU is missing."""
        try:
            cuda = await workers.run(importlib.import_module, "tritonclient.utils.cuda_shared_memory")
        except (ImportError, RuntimeError) as error:
            raise ConfigurationError("CUDA shared memory needs the package cuda-python: install tritonclient[cuda]") from error
        regions = cls(cuda, device, limit_bytes, workers)
        try:
            await workers.run(lambda: CudaRegion(cuda, _SMALLEST, device).close())
        except cuda.CudaSharedMemoryException as error:
            raise ConfigurationError(f"CUDA shared memory cannot be had on GPU {device}: {error}") from error
        return regions

    @property
    def leased(self) -> int:
        """How many leases are out."""
        return len(self._lent)

    async def lease(self, count: int) -> Lease | None:
        """A region that is free, or a new one within the bound."""
        size = max(_SMALLEST, power_of_two(count))
        if free := self._free.get(size):
            region = free.pop()
        elif self._left >= size and not self._closed:
            self._left -= size
            making = asyncio.ensure_future(self._workers.run(CudaRegion, self._cuda, size, self._device))
            try:
                region = await asyncio.shield(making)
            except asyncio.CancelledError:
                # What is made for a caller that left serves the next one.
                making.add_done_callback(self._keep)
                raise
            except self._cuda.CudaSharedMemoryException:
                # The GPU is full: no more than there are.
                self._left = 0
                return None
        else:
            return None
        lease = self._lent[region] = Lease(region, 0)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Keep the region for the next call of its size."""
        for region, lent in list(self._lent.items()):
            if lent is lease:
                del self._lent[region]
                self._free.setdefault(region.size, []).append(region)

    def _keep(self, making: asyncio.Future[CudaRegion]) -> None:
        if not making.cancelled() and making.exception() is None:
            region = making.result()
            self._free.setdefault(region.size, []).append(region)

    async def close(self) -> None:
        """Free all memory that no call uses."""
        self._closed = True
        free, self._free = self._free, {}
        for regions in free.values():
            for region in regions:
                await self._workers.run(region.close)

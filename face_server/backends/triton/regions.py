"""Memory of this host that servers on it read tensors from.

A region is a file below ``/dev/shm`` whose owner holds a lock on it. The kernel lets go of the lock
when the owner ends, however it ends, so that whoever starts next can tell regions of the dead from
those of the living, in other containers too, where process ids mean nothing.

Only inputs travel through regions. A call that was cancelled may still wait in the queue of the
server; when its memory has been lent to another call by then, the answer that nobody waits for is
wrong, and nothing else. Outputs written that late would destroy tensors of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from face_server.backends.triton.buddy import BuddyBlocks, power_of_two
from face_server.workers import Workers

_log = logging.getLogger(__name__)

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, where servers look for it
PREFIX: Final = "face_server_triton_"
REGION_BYTES: Final = 32 * 1024 * 1024
"""A picture of 4K fits; so does a region into the 64 MB that container engines allow by default."""

ALIGNMENT: Final = 64
_SMALLEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Registration:
    """How servers are told of a region: the remote method and its request."""

    method: str
    request: Any


class Region(Protocol):
    """Memory that servers can be told of under ``name``."""

    @property
    def name(self) -> str:
        """Unique among all regions of all processes."""
        ...

    @property
    def registration(self) -> Registration:
        """Tells a server of it."""
        ...

    @property
    def withdrawal(self) -> Registration:
        """Lets a server forget it."""
        ...

    def write(self, offset: int, tensors: Sequence[NDArray[Any]]) -> None:
        """Copy ``tensors`` to ``offset``, one after the other as ``layout`` places them. Blocks."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A part of a region that one call may use until it is given back."""

    region: Region
    offset: int


class RegionPool(Protocol):
    """Lends memory to calls."""

    @property
    def kind(self) -> str:
        """What it is, for people: "system shared memory"."""
        ...

    @property
    def leased(self) -> int:
        """How many leases are out."""
        ...

    async def lease(self, count: int) -> Lease | None:
        """``count`` bytes, or None where the bound is reached."""
        ...

    def give_back(self, lease: Lease) -> None:
        """Take a lease back."""
        ...

    async def close(self) -> None:
        """Release all memory. Idempotent."""
        ...


def layout(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, int], int]:
    """The offset of each tensor in a block, and the bytes of all."""
    offsets: dict[str, int] = {}
    end = 0
    for name, tensor in tensors.items():
        offsets[name] = end
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


class SystemRegion:
    """A file below ``/dev/shm``, mapped. Blocks while it is made, for some milliseconds.

    Raises OSError where there is no room for it, so that no later access can fail.
    """

    def __init__(self, size: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}_{secrets.token_hex(6)}"
        self.size = size
        self._path = FOLDER / self.name
        self._file = _create(self._path)
        try:
            os.posix_fallocate(self._file, 0, size)
            self._memory = mmap.mmap(self._file, size)
        except OSError:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            raise

    @property
    def registration(self) -> Registration:
        """By its file."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(name=self.name, key=f"/{self.name}", byte_size=self.size)
        return Registration("SystemSharedMemoryRegister", request)

    @property
    def withdrawal(self) -> Registration:
        """By its name."""
        return Registration("SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(name=self.name))

    def write(self, offset: int, tensors: Sequence[NDArray[Any]]) -> None:
        """Copy ``tensors``, whatever their memory layout is."""
        for tensor in tensors:
            target = np.frombuffer(self._memory, tensor.dtype, tensor.size, offset).reshape(tensor.shape)
            np.copyto(target, tensor)
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT

    def close(self) -> None:
        """Remove the file. The memory goes when nobody uses it any more."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


class SystemRegions:
    """System shared memory of at most ``limit_bytes``, made region by region as calls need it."""

    kind = "system shared memory"

    def __init__(self, limit_bytes: int, workers: Workers) -> None:
        self._size = min(REGION_BYTES, power_of_two(limit_bytes + 1) // 2)
        self._most = limit_bytes // self._size if self._size >= _SMALLEST else 0
        self._workers = workers
        self._regions: dict[SystemRegion, BuddyBlocks] = {}
        self._growing = asyncio.Lock()

    @property
    def leased(self) -> int:
        """How many leases are out."""
        return sum(blocks.taken for blocks in self._regions.values())

    async def lease(self, count: int) -> Lease | None:
        """A block of a region, of a new one if need be."""
        if count > self._size:
            return None
        lease = self._take(count)
        if lease is None and len(self._regions) < self._most:
            async with self._growing:
                lease = self._take(count)
                if lease is None and len(self._regions) < self._most and await self._grow():
                    lease = self._take(count)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Let the next call have the block."""
        for region, blocks in self._regions.items():
            if region is lease.region:
                blocks.give(lease.offset)

    async def close(self) -> None:
        """Remove the files of all regions."""
        async with self._growing:
            self._most = 0
            regions = list(self._regions)
            self._regions.clear()
            for region in regions:
                await self._workers.run(region.close)

    def _take(self, count: int) -> Lease | None:
        for region, blocks in self._regions.items():
            offset = blocks.take(count)
            if offset is not None:
                return Lease(region, offset)
        return None

    async def _grow(self) -> bool:
        """Make one more region; with the lock held."""
        try:
            region = await make_region(self._size, self._workers)
        except OSError as error:
            self._most = len(self._regions)
            _log.warning("there is no room for more shared memory (%s): tensors beyond %d regions go by the network", error, self._most)
            return False
        self._regions[region] = BuddyBlocks(self._size, _SMALLEST)
        return True


async def make_region(size: int, workers: Workers) -> SystemRegion:
    """A region made in a worker thread. Raises OSError where there is no room for it."""
    making = asyncio.ensure_future(workers.run(SystemRegion, size))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # The caller left: what is made for it is removed again.
        making.add_done_callback(_discard)
        raise


def remove_regions_of_the_dead() -> list[str]:
    """Remove the files that processes of this program left behind; their names. Blocks."""
    removed = []
    for path in FOLDER.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                # Raises while the owner lives.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed.append(path.name)
            finally:
                os.close(file)
    return removed


def exists(name: str) -> bool:
    """Whether the region of that name is there. Blocks for microseconds."""
    return (FOLDER / name).exists()


def _create(path: Path) -> int:
    """A new locked file. Who cleans up may take it for one of the dead before it is locked; then it is made again."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        os.close(file)


def _discard(making: asyncio.Future[SystemRegion]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()

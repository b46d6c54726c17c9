"""One call's tensors, ready to be sent: with the large ones in shared memory, or all in the message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from face_server.backends.triton.regions import Lease, Region, RegionPool, layout
from face_server.backends.triton.wire import Place, encode
from face_server.domain.ports import Tensors
from face_server.errors import InputTooLarge
from face_server.workers import Workers

_INLINE_BYTES: Final = 1024 * 1024
"""Copying more than this takes longer than going to a worker thread and back."""

SHARED_FROM_BYTES: Final = 64 * 1024
"""Smaller tensors are as fast in the message."""


@dataclass(frozen=True, slots=True)
class SharedMessage:
    """A message whose large tensors lie in ``region``."""

    data: bytes
    region: Region


class Payload:
    """Encodes a call when it is first asked for, and keeps the result for a second attempt.

    ``release`` must be called at the end, however the call ended.
    """

    def __init__(
        self, model: str, inputs: Tensors, outputs: Sequence[str], pool: RegionPool | None, workers: Workers, max_bytes: int
    ) -> None:
        self.model = model
        self._inputs = inputs
        self._outputs = outputs
        self._pool = pool
        self._workers = workers
        self._max_bytes = max_bytes
        self._message: bytes | None = None
        self._shared: SharedMessage | None = None
        self._lease: Lease | None = None
        self._copying: asyncio.Future[None] | None = None
        self._exhausted = False

    async def message(self) -> bytes:
        """Everything in one message. Raises InputTooLarge for one above the bound."""
        if self._message is None:
            count = sum(tensor.nbytes for tensor in self._inputs.values())
            if count > self._max_bytes:
                raise InputTooLarge(f"the tensors of one call have {count} bytes, at most {self._max_bytes} can be sent to Triton")
            if count > _INLINE_BYTES:
                self._message = await self._workers.run(encode, self.model, self._inputs, self._outputs, {})
            else:
                self._message = encode(self.model, self._inputs, self._outputs, {})
        return self._message

    async def shared_message(self) -> SharedMessage | None:
        """Large tensors in shared memory; None where there is no large one or no memory free."""
        if self._shared is None and self._pool is not None and not self._exhausted:
            large = {
                name: tensor for name, tensor in self._inputs.items() if tensor.nbytes >= SHARED_FROM_BYTES and tensor.dtype != np.object_
            }
            offsets, count = layout(large)
            self._lease = await self._pool.lease(count) if large else None
            if self._lease is None:
                self._exhausted = True
                return None
            lease = self._lease
            if count > _INLINE_BYTES:
                # A copy that has begun goes on when the caller leaves: the memory is not given back before its end.
                self._copying = asyncio.ensure_future(self._workers.run(lease.region.write, lease.offset, list(large.values())))
                await asyncio.shield(self._copying)
            else:
                lease.region.write(lease.offset, list(large.values()))
            places = {name: Place(lease.region.name, lease.offset + offset) for name, offset in offsets.items()}
            self._shared = SharedMessage(encode(self.model, self._inputs, self._outputs, places), lease.region)
        return self._shared

    def release(self) -> None:
        """Give the memory back."""
        lease, self._lease = self._lease, None
        if lease is None or self._pool is None:
            return
        pool = self._pool
        if self._copying is None or self._copying.done():
            pool.give_back(lease)
        else:

            def give_back(copying: asyncio.Future[None]) -> None:
                if not copying.cancelled():
                    copying.exception()
                pool.give_back(lease)

            self._copying.add_done_callback(give_back)

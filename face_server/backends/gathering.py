"""What waits for a network and what goes next: the rules of batching, without tasks or clocks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face_server.domain.ports import Tensors
from face_server.errors import ConfigurationError, WeightsError

ShapeKey = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of one row of each tensor; only calls of equal keys share a batch."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How calls of one network are gathered.

    ``max_batch`` rows go to the backend at once; 1 turns gathering off. While another batch runs,
    a smaller one waits up to ``max_wait_ms`` for more rows. ``max_in_flight`` batches run at the
    same time: one computes while the next is on its way. ``max_waiting`` rows may wait.
    """

    max_batch: int = 1
    max_wait_ms: float = 2.0
    max_in_flight: int = 2
    max_waiting: int = 1024

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_in_flight, self.max_waiting) < 1 or not self.max_wait_ms >= 0:
            raise ConfigurationError("a batch policy needs max_batch, max_in_flight and max_waiting >= 1 and max_wait_ms >= 0")


@dataclass(eq=False, slots=True)
class Part:
    """At most ``max_batch`` rows of one call, and the promise of their outputs.

    ``lead_s`` is how far it goes ahead of others: ``workers.LIVE_LEAD_S`` for live cameras, else 0.
    """

    inputs: Tensors
    rows: int
    arrived_s: float
    answer: asyncio.Future[Tensors]
    lead_s: float = 0.0

    @property
    def place_s(self) -> float:
        """What parts are ordered by."""
        return self.arrived_s - self.lead_s


class Waiting:
    """Parts of one network that wait, in order of arrival (live ones with a lead), by shape."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._queues: dict[ShapeKey, deque[Part]] = {}
        self.rows = 0

    def put(self, part: Part) -> None:
        """Queue ``part`` at its place among those of its shape."""
        queue = self._queues.setdefault(shape_key(part.inputs), deque())
        ahead = len(queue)
        while ahead and queue[ahead - 1].place_s > part.place_s:
            ahead -= 1
        queue.insert(ahead, part)
        self.rows += part.rows

    def discard(self, part: Part) -> None:
        """Forget ``part`` if it still waits."""
        key = shape_key(part.inputs)
        queue = self._queues.get(key, deque())
        if part in queue:
            queue.remove(part)
            self._removed(key, part)

    def take(self, now_s: float, *, idle: bool) -> list[Part]:
        """Remove and return the next batch, or nothing if none is due.

        A shape is due when the network is ``idle``, when its parts fill a batch, and when its
        first part has waited long enough. Of several the one that came first goes first.
        """
        due = [key for key, queue in self._queues.items() if idle or self._is_full(queue) or now_s >= self._deadline_s(queue)]
        if not due:
            return []
        key = min(due, key=lambda key: self._queues[key][0].place_s)
        queue, batch, room = self._queues[key], [], self._policy.max_batch
        while queue and queue[0].rows <= room:
            part = queue.popleft()
            room -= part.rows
            batch.append(part)
            self._removed(key, part)
        return batch

    def due_at_s(self) -> float | None:
        """When the first part will have waited long enough; None if nothing waits."""
        return min((self._deadline_s(queue) for queue in self._queues.values()), default=None)

    def drain(self) -> list[Part]:
        """Remove and return everything."""
        parts = [part for queue in self._queues.values() for part in queue]
        self._queues.clear()
        self.rows = 0
        return parts

    def _removed(self, key: ShapeKey, part: Part) -> None:
        self.rows -= part.rows
        if not self._queues[key]:
            del self._queues[key]

    def _deadline_s(self, queue: deque[Part]) -> float:
        return queue[0].arrived_s + self._policy.max_wait_ms / 1000

    def _is_full(self, queue: deque[Part]) -> bool:
        rows = 0
        for part in queue:
            rows += part.rows
            if rows >= self._policy.max_batch:
                return True
        return False


def shape_key(inputs: Tensors) -> ShapeKey:
    """What two calls must have in common to share a batch."""
    return tuple(sorted((name, tensor.dtype.str, tensor.shape[1:]) for name, tensor in inputs.items()))


def row_count(inputs: Tensors) -> int:
    """The common batch of ``inputs``; 0 where they have none, which the backend itself will refuse."""
    sizes = {tensor.shape[0] if isinstance(tensor, np.ndarray) and tensor.ndim else 0 for tensor in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def slice_rows(tensors: Tensors, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Views of the rows from ``start`` to ``stop``."""
    return {name: tensor[start:stop] for name, tensor in tensors.items()}


def join_rows(pieces: Sequence[Tensors]) -> Mapping[str, NDArray[Any]]:
    """Tensors of equal row shapes, one behind the other."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def divide(network: str, outputs: Tensors, parts: Sequence[Part]) -> list[Tensors]:
    """The rows of ``outputs`` that belong to each of ``parts``, as views.

    Raises WeightsError if an output has not one row for each row that went in.
    """
    rows = sum(part.rows for part in parts)
    for name, tensor in outputs.items():
        if not tensor.ndim or tensor.shape[0] != rows:
            raise WeightsError(f"network {network!r} cannot run in batches: output {name!r} has shape {tensor.shape} for a batch of {rows}")
    if len(parts) == 1:
        return [outputs]
    answers: list[Tensors] = []
    start = 0
    for part in parts:
        answers.append(slice_rows(outputs, start, start + part.rows))
        start += part.rows
    return answers

"""Gathers concurrent calls, of whatever requests and streams, into batches for any backend.

On GPUs a batch costs little more than one row, so gathering multiplies the throughput; on CPUs it
gains nothing, and the rows of one call are better spread over the workers (``max_batch=1``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from face_server.backends.gathering import BatchPolicy, Part, Waiting, divide, join_rows, row_count, slice_rows
from face_server.domain.ports import Backend, Runner, Tensors
from face_server.errors import FaceServerError, InvalidInput, Overloaded, Unavailable
from face_server.workers import LIVE_LEAD_S, Workers, live_work

_INLINE_BYTES = 1 << 20
"""Joining more than this takes longer than going to a worker thread and back."""


@dataclass(frozen=True, slots=True)
class BatchObservation:
    """One inference of the backend behind, for metrics.

    ``calls`` and ``rows`` in it, ``waiting`` rows behind it, ``wait_s`` of the call that waited
    longest, ``infer_s`` in the backend, its own queue included; ``failed`` when it raised.
    """

    network: str
    calls: int
    rows: int
    waiting: int
    wait_s: float
    infer_s: float
    failed: bool


Observer = Callable[[BatchObservation], None]


@dataclass(eq=False, slots=True)
class _Lane:
    """The state of one network."""

    network: str
    policy: BatchPolicy
    waiting: Waiting
    running: dict[asyncio.Task[None], list[Part]] = field(default_factory=dict)
    soon: asyncio.Handle | None = None
    timer: asyncio.TimerHandle | None = None
    last_infer_s: float = 0.0


class BatchingBackend:
    """Wraps ``inner``. Networks without a policy, and single rows under ``max_batch=1``, pass through.

    Nothing waits while a network is idle: a call starts at the end of the same turn of the event
    loop, together with what else came in that turn. A call of more than ``max_batch`` rows is
    split. When a batch is refused with InvalidInput, its calls run one by one, so that only the
    culprit fails. Outputs of one batch are views of common arrays, each caller its own rows.
    ``observer`` is called after every inference, in the thread that waited for it. Closing closes
    ``inner``.
    """

    def __init__(self, inner: Backend, policies: Mapping[str, BatchPolicy], workers: Workers, *, observer: Observer | None = None) -> None:
        self._inner = inner
        self._workers = workers
        self._observer = observer
        self._spread = {network for network, policy in policies.items() if policy.max_batch == 1}
        self._lanes = {network: _Lane(network, policy, Waiting(policy)) for network, policy in policies.items() if policy.max_batch > 1}
        self._closed = False

    @property
    def description(self) -> str:
        """What runs the networks, and which of them in batches."""
        sizes = ", ".join(f"{lane.network} ≤ {lane.policy.max_batch}" for lane in self._lanes.values())
        return f"{self._inner.description}, batches of {sizes}" if sizes else self._inner.description

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """See ``Backend.infer``. Raises Overloaded when too many rows wait for ``network``."""
        if self._closed:
            raise Unavailable("the backend is closed")
        rows = row_count(inputs)
        lane = self._lanes.get(network)
        if lane is not None and rows > 0:
            return await self._gather(lane, inputs, rows)
        if network in self._spread and rows > 1:
            return await self._run_rows(network, inputs, rows)
        return await self._observed(network, inputs, rows)

    def runner(self, network: str) -> Runner | None:
        """That of the wrapped backend, observed; None for networks that are gathered into batches."""
        run = None if network in self._lanes else self._inner.runner(network)
        observer = self._observer
        if run is None or observer is None:
            return run

        def observed(inputs: Tensors) -> Tensors:
            started_s, failed = time.monotonic(), True
            try:
                outputs = run(inputs)
                failed = False
            finally:
                infer_s = time.monotonic() - started_s
                observer(BatchObservation(network, 1, row_count(inputs), 0, 0.0, infer_s, failed))
            return outputs

        return observed

    async def ready(self, network: str) -> bool:
        """Whether the wrapped backend is ready."""
        return not self._closed and await self._inner.ready(network)

    async def close(self) -> None:
        """Fail what waits and runs with Unavailable, end every task, close the wrapped backend."""
        self._closed = True
        running = [task for lane in self._lanes.values() for task in lane.running]
        for lane in self._lanes.values():
            _cancel(lane.soon)
            _cancel(lane.timer)
            for part in lane.waiting.drain():
                _fail(part, Unavailable("the backend is closed"))
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._inner.close()

    async def _run_rows(self, network: str, inputs: Tensors, rows: int) -> Tensors:
        """Run each row by itself, as many at once as there are workers and no more, to be fair to other calls."""
        answers: list[Tensors] = [{}] * rows
        rows_left = iter(range(rows))

        async def run() -> None:
            for row in rows_left:
                answers[row] = await self._observed(network, slice_rows(inputs, row, row + 1), 1)

        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(rows, self._workers.threads)):
                    group.create_task(run())
        except ExceptionGroup as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure
        return await self._joined(answers)

    async def _gather(self, lane: _Lane, inputs: Tensors, rows: int) -> Tensors:
        """Queue ``inputs`` in parts of at most ``max_batch`` rows and wait for their outputs."""
        self._admit(lane, rows)
        loop = asyncio.get_running_loop()
        size, now_s = lane.policy.max_batch, loop.time()
        lead_s = LIVE_LEAD_S if live_work.get() else 0.0
        parts = [
            Part(slice_rows(inputs, start, start + size), min(size, rows - start), now_s, loop.create_future(), lead_s)
            for start in range(0, rows, size)
        ]
        for part in parts:
            lane.waiting.put(part)
        self._wake(lane)
        try:
            answers = await asyncio.gather(*(part.answer for part in parts))
        finally:
            for part in parts:
                part.answer.cancel()
                lane.waiting.discard(part)
            self._drop_abandoned(lane)
        return await self._joined(answers)

    def _admit(self, lane: _Lane, rows: int) -> None:
        """Refuse a call that would make more than ``max_waiting`` rows wait, unless it is alone."""
        waiting, policy = lane.waiting.rows, lane.policy
        if waiting and waiting + rows > policy.max_waiting:
            batches = math.ceil(waiting / policy.max_batch)
            raise Overloaded(
                f"{waiting} pictures wait for network {lane.network!r}; the limit is {policy.max_waiting}",
                retry_after_s=min(30.0, max(0.1, batches * lane.last_infer_s / policy.max_in_flight)),
            )

    def _wake(self, lane: _Lane) -> None:
        """Look at the queue at the end of this turn of the event loop, when all its calls are in."""
        if lane.soon is None and not self._closed:
            lane.soon = asyncio.get_running_loop().call_soon(self._pump, lane)

    def _pump(self, lane: _Lane) -> None:
        """Start what is due and set the timer for what is not."""
        _cancel(lane.timer)
        lane.soon = lane.timer = None
        loop = asyncio.get_running_loop()
        while len(lane.running) < lane.policy.max_in_flight:
            parts = lane.waiting.take(loop.time(), idle=not lane.running)
            if not parts:
                due_s = lane.waiting.due_at_s()
                lane.timer = loop.call_at(due_s, self._pump, lane) if due_s is not None else None
                return
            task = loop.create_task(self._run(lane, parts))
            lane.running[task] = parts
            task.add_done_callback(partial(self._finish, lane))

    async def _run(self, lane: _Lane, parts: Sequence[Part]) -> None:
        """Run one batch and answer its parts."""
        inputs = await self._joined([part.inputs for part in parts])
        try:
            outputs = await self._observed(lane.network, inputs, sum(part.rows for part in parts), parts)
        except InvalidInput:
            if len(parts) == 1:
                raise
            await self._run_each(lane, parts)
            return
        for part, answer in zip(parts, divide(lane.network, outputs, parts), strict=True):
            if not part.answer.done():
                part.answer.set_result(answer)

    async def _run_each(self, lane: _Lane, parts: Sequence[Part]) -> None:
        """Run the parts of a refused batch one by one."""
        for part in parts:
            if part.answer.done():
                continue
            try:
                outputs = await self._observed(lane.network, part.inputs, part.rows, [part])
            except FaceServerError as error:
                _fail(part, error)
            else:
                # The caller may have left during the inference.
                if not part.answer.done():
                    part.answer.set_result(divide(lane.network, outputs, [part])[0])

    def _finish(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        """Give the error of a batch to those of its parts that have no answer, and go on."""
        parts = lane.running.pop(task)
        error = Unavailable("the backend is closed") if task.cancelled() else task.exception()
        if error is not None:
            for part in parts:
                _fail(part, error)
        self._wake(lane)

    def _drop_abandoned(self, lane: _Lane) -> None:
        """Cancel batches that nobody waits for any more."""
        for task, parts in lane.running.items():
            if all(part.answer.done() for part in parts):
                task.cancel()

    async def _observed(self, network: str, inputs: Tensors, rows: int, parts: Sequence[Part] = ()) -> Tensors:
        loop = asyncio.get_running_loop()
        started_s, failed = loop.time(), True
        try:
            outputs = await self._inner.infer(network, inputs)
            failed = False
        finally:
            infer_s = loop.time() - started_s
            lane = self._lanes.get(network)
            if lane is not None:
                lane.last_infer_s = infer_s
            if self._observer is not None:
                wait_s = started_s - min((part.arrived_s for part in parts), default=started_s)
                waiting = lane.waiting.rows if lane is not None else 0
                self._observer(BatchObservation(network, max(1, len(parts)), rows, waiting, wait_s, infer_s, failed))
        return outputs

    async def _joined(self, pieces: Sequence[Tensors]) -> Tensors:
        if len(pieces) > 1 and sum(tensor.nbytes for piece in pieces for tensor in piece.values()) > _INLINE_BYTES:
            return await self._workers.run(join_rows, pieces)
        return join_rows(pieces)


def _fail(part: Part, error: BaseException) -> None:
    if not part.answer.done():
        part.answer.set_exception(error)


def _cancel(handle: asyncio.Handle | None) -> None:
    if handle is not None:
        handle.cancel()

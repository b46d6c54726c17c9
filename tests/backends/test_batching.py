"""Batching: what is gathered, what waits, who fails, and that nobody gets another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from face_server.backends.batching import BatchingBackend, BatchObservation
from face_server.backends.gathering import BatchPolicy, Part, Waiting
from face_server.backends.scripted import ScriptedBackend
from face_server.domain.ports import Tensors
from face_server.errors import ConfigurationError, InvalidInput, Overloaded, Unavailable, WeightsError
from face_server.workers import LIVE_LEAD_S, Workers

POISON = 255
LETHAL = 254


def double(inputs: Tensors) -> dict[str, NDArray[Any]]:
    """Twice the input; refuses batches with a poisoned row and breaks down at a lethal one."""
    rows = inputs["rows"]
    if (rows == POISON).any():
        raise InvalidInput("a row is poisoned")
    if (rows == LETHAL).any():
        raise Unavailable("the runtime broke down")
    return {"doubled": rows.astype(np.int32) * 2}


def rows(*values: int, width: int = 2) -> dict[str, NDArray[np.uint8]]:
    """One row of equal numbers for each value."""
    return {"rows": np.repeat(np.array(values, np.uint8)[:, None], width, axis=1)}


def batch_sizes(inner: ScriptedBackend) -> list[int]:
    """The number of rows of each call that reached the backend behind."""
    return [len(call.inputs["rows"]) for call in inner.calls]


async def settle() -> None:
    """Let everything run that can run without waiting."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestGathering:
    async def test_one_turn_is_one_batch(self, workers: Workers) -> None:
        """Calls that come in the same turn of the event loop run together at once."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_wait_ms=60_000)}, workers)
        answers = await asyncio.gather(*(backend.infer("net", rows(value)) for value in range(5)))
        assert [int(answer["doubled"][0, 0]) for answer in answers] == [0, 2, 4, 6, 8]
        assert batch_sizes(inner) == [5]

    async def test_idle_does_not_wait(self, workers: Workers) -> None:
        """A lone call starts at once, however long batches may wait."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_wait_ms=60_000)}, workers)
        async with asyncio.timeout(1.0):
            for value in range(3):
                await backend.infer("net", rows(value))
        assert batch_sizes(inner) == [1, 1, 1]

    async def test_busy_gathers(self, workers: Workers) -> None:
        """While one batch runs, later calls wait and leave together when it ends."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_wait_ms=60_000)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(value))) for value in range(1)]
        await settle()
        for value in range(1, 6):
            tasks.append(asyncio.create_task(backend.infer("net", rows(value))))
            await settle()
        assert batch_sizes(inner) == [1]
        inner.release()
        await asyncio.gather(*tasks)
        assert batch_sizes(inner) == [1, 5]

    async def test_full_does_not_wait(self, workers: Workers) -> None:
        """A full batch starts beside a running one, as long as fewer than max_in_flight run."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=3, max_wait_ms=60_000, max_in_flight=2)}, workers)
        inner.block()
        tasks = []
        for value in range(9):
            tasks.append(asyncio.create_task(backend.infer("net", rows(value))))
            await settle()
        assert batch_sizes(inner) == [1, 3]
        inner.release()
        await asyncio.gather(*tasks)
        assert batch_sizes(inner) == [1, 3, 3, 2]

    async def test_waits_no_longer_than_allowed(self, workers: Workers) -> None:
        """A partial batch starts beside a running one after max_wait_ms."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_wait_ms=200)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(0)))]
        await settle()
        tasks += [asyncio.create_task(backend.infer("net", rows(value))) for value in (1, 2)]
        await asyncio.sleep(0.02)
        assert batch_sizes(inner) == [1]
        await asyncio.sleep(0.3)
        assert batch_sizes(inner) == [1, 2]
        inner.release()
        await asyncio.gather(*tasks)

    async def test_shapes_do_not_mix(self, workers: Workers) -> None:
        """Only calls whose rows have the same shape and dtype share a batch."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        sent = [rows(1, width=2), rows(2, width=3), rows(3, width=2), {"rows": np.ones((1, 2), np.int16)}]
        answers = await asyncio.gather(*(backend.infer("net", one) for one in sent))
        assert [answer["doubled"].shape for answer in answers] == [(1, 2), (1, 3), (1, 2), (1, 2)]
        assert sorted(batch_sizes(inner)) == [1, 1, 2]

    async def test_oldest_shape_first(self, workers: Workers) -> None:
        """Of several shapes that wait, the one whose first call came first goes first."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_in_flight=1)}, workers)
        widths = [9, 3, 7, 1, 5]
        tasks = []
        inner.block()
        for width in widths:
            tasks.append(asyncio.create_task(backend.infer("net", rows(1, width=width))))
            await asyncio.sleep(0.001)
        inner.release()
        await asyncio.gather(*tasks)
        assert [call.inputs["rows"].shape[1] for call in inner.calls] == widths

    async def test_large_calls_are_split(self, workers: Workers) -> None:
        """A call of more rows than max_batch is split and its answer put together in order."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=4)}, workers)
        answer = await backend.infer("net", rows(*range(10)))
        assert answer["doubled"][:, 0].tolist() == [2 * value for value in range(10)]
        assert batch_sizes(inner) == [4, 4, 2]

    async def test_large_batches_are_joined_in_a_worker(self, workers: Workers) -> None:
        """Batches of megabytes come out right too; they are joined off the event loop."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=4)}, workers)
        sent = [{"rows": np.full((1, 700_000), value, np.uint8)} for value in range(3)]
        answers = await asyncio.gather(*(backend.infer("net", one) for one in sent))
        assert [int(answer["doubled"].max()) for answer in answers] == [0, 2, 4]
        assert batch_sizes(inner) == [3]

    async def test_single_rows_pass_through(self, workers: Workers) -> None:
        """With max_batch 1 a single row reaches the backend as the very same array."""
        inner = ScriptedBackend({"net": double, "other": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=1)}, workers)
        sent = rows(1)
        await backend.infer("net", sent)
        await backend.infer("other", rows(1, 2, 3))
        assert inner.calls[0].inputs["rows"] is sent["rows"]
        assert batch_sizes(inner) == [1, 3]

    async def test_spread_over_workers(self, workers: Workers) -> None:
        """With max_batch 1 the rows of one call run side by side, as many at once as there are workers."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=1)}, workers)
        inner.block()
        task = asyncio.create_task(backend.infer("net", rows(*range(6))))
        await settle()
        assert inner.running == workers.threads == 2
        inner.release()
        answer = await task
        assert answer["doubled"][:, 0].tolist() == [0, 2, 4, 6, 8, 10]
        assert batch_sizes(inner) == [1] * 6


class TestFailures:
    async def test_only_the_culprit_fails(self, workers: Workers) -> None:
        """When a batch is refused its calls run alone: the bad one fails, its neighbours do not."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        answers = await asyncio.gather(*(backend.infer("net", rows(value)) for value in (1, POISON, 3)), return_exceptions=True)
        assert answers[0]["doubled"][0, 0] == 2
        assert isinstance(answers[1], InvalidInput)
        assert answers[2]["doubled"][0, 0] == 6
        assert batch_sizes(inner) == [3, 1, 1, 1]

    async def test_breakdown_reaches_all_and_ends(self, workers: Workers) -> None:
        """When the runtime fails, the whole batch hears of it; the next batch is not affected."""
        inner = ScriptedBackend({"net": double})
        inner.fail("net", Unavailable("gone"))
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        answers = await asyncio.gather(*(backend.infer("net", rows(value)) for value in range(3)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["gone"] * 3
        assert (await backend.infer("net", rows(4)))["doubled"][0, 0] == 8

    async def test_one_row_of_many(self, workers: Workers) -> None:
        """A call whose rows are spread fails with the row's own error, its cause kept; the other rows are dropped."""
        inner = ScriptedBackend({"net": double})
        cause = RuntimeError("theirs")
        error = Unavailable("ours")
        error.__cause__ = cause
        inner.fail("net", error)
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=1)}, workers)
        with pytest.raises(Unavailable, match="ours") as caught:
            await backend.infer("net", rows(*range(50)))
        assert caught.value.__cause__ is cause
        assert len(inner.calls) < 50

    async def test_network_that_cannot_batch(self, workers: Workers) -> None:
        """A network whose output lacks a row for each input row is named, not misread."""
        inner = ScriptedBackend({"net": lambda _: {"flat": np.zeros(7)}})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        with pytest.raises(WeightsError, match=r"'net' cannot run in batches: output 'flat' has shape \(7,\) for a batch of 2"):
            await backend.infer("net", rows(1, 2))

    async def test_unforeseen_error(self, workers: Workers) -> None:
        """An error of no known kind reaches the caller and does not stall the network."""
        inner = ScriptedBackend({"net": double})
        inner.fail("net", ZeroDivisionError("a bug"))
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        with pytest.raises(ZeroDivisionError):
            await backend.infer("net", rows(1))
        assert (await backend.infer("net", rows(2)))["doubled"][0, 0] == 4


class TestBounds:
    async def test_full_queue(self, workers: Workers) -> None:
        """Beyond max_waiting rows calls are refused with the limit and a time; those that wait are served."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=2, max_in_flight=1, max_waiting=4, max_wait_ms=0)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(0)))]
        await settle()
        tasks += [asyncio.create_task(backend.infer("net", rows(value))) for value in range(1, 5)]
        await settle()
        with pytest.raises(Overloaded, match="4 pictures wait for network 'net'; the limit is 4") as caught:
            await backend.infer("net", rows(9))
        assert 0.1 <= caught.value.retry_after_s <= 30
        inner.release()
        answers = await asyncio.gather(*tasks)
        assert [int(answer["doubled"][0, 0]) for answer in answers] == [0, 2, 4, 6, 8]
        assert (await backend.infer("net", rows(9)))["doubled"][0, 0] == 18

    async def test_one_large_call_is_no_overload(self, workers: Workers) -> None:
        """A call that alone exceeds max_waiting is served when nothing else waits."""
        backend = BatchingBackend(ScriptedBackend({"net": double}), {"net": BatchPolicy(max_batch=2, max_waiting=4)}, workers)
        assert len((await backend.infer("net", rows(*range(20))))["doubled"]) == 20

    @pytest.mark.parametrize(
        "wrong", [{"max_batch": 0}, {"max_in_flight": 0}, {"max_waiting": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}]
    )
    def test_policy(self, wrong: dict[str, Any]) -> None:
        """A policy that cannot work is refused when it is made."""
        with pytest.raises(ConfigurationError, match="batch policy"):
            BatchPolicy(**wrong)


class TestCancelling:
    async def test_waiting_calls_are_dropped(self, workers: Workers) -> None:
        """A call whose caller leaves before it starts never reaches the backend and frees its place."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8, max_in_flight=1, max_waiting=4)}, workers)
        inner.block()
        first = asyncio.create_task(backend.infer("net", rows(0)))
        await settle()
        for _ in range(3):
            leaving = [asyncio.create_task(backend.infer("net", rows(value))) for value in range(4)]
            await settle()
            for task in leaving:
                task.cancel()
            answers = await asyncio.gather(*leaving, return_exceptions=True)
            assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
        inner.release()
        await first
        await settle()
        assert batch_sizes(inner) == [1]

    async def test_neighbours_are_not_disturbed(self, workers: Workers) -> None:
        """One caller of a running batch may leave; the others get their answers."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(value))) for value in range(3)]
        await settle()
        tasks[1].cancel()
        await settle()
        inner.release()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[0]["doubled"][0, 0] == 0
        assert isinstance(answers[1], asyncio.CancelledError)
        assert answers[2]["doubled"][0, 0] == 4

    async def test_abandoned_batch_is_cancelled(self, workers: Workers) -> None:
        """A batch that nobody waits for any more is cancelled in the backend behind."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=8)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(value))) for value in range(3)]
        await settle()
        assert inner.running == 1
        for task in tasks:
            task.cancel()
        await settle()
        assert inner.running == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_close_with_work(self, workers: Workers) -> None:
        """Closing fails running and waiting calls with Unavailable and leaves no task and no timer."""
        inner = ScriptedBackend({"net": double})
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=2, max_in_flight=1)}, workers)
        inner.block()
        tasks = [asyncio.create_task(backend.infer("net", rows(value))) for value in range(7)]
        await settle()
        await backend.close()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestObserving:
    async def test_observations(self, workers: Workers) -> None:
        """Each inference is reported with its size, its calls, what waits behind it, and its times."""
        seen: list[BatchObservation] = []
        inner = ScriptedBackend({"net": double, "plain": double}, delay_s=0.02)
        backend = BatchingBackend(inner, {"net": BatchPolicy(max_batch=4, max_in_flight=1)}, workers, observer=seen.append)
        await asyncio.gather(*(backend.infer("net", rows(value, value)) for value in range(3)))
        assert [(one.network, one.calls, one.rows, one.waiting, one.failed) for one in seen] == [
            ("net", 2, 4, 2, False),
            ("net", 1, 2, 0, False),
        ]
        assert seen[0].wait_s < 0.015 <= seen[0].infer_s
        assert seen[1].wait_s >= 0.015
        seen.clear()
        await backend.infer("plain", rows(1, 2, 3))
        inner.fail("plain", Unavailable("gone"))
        with pytest.raises(Unavailable):
            await backend.infer("plain", rows(1))
        assert [(one.network, one.calls, one.rows, one.failed) for one in seen] == [("plain", 1, 3, False), ("plain", 1, 1, True)]


Step = tuple[list[int], int, bool]
"""One caller: the values of its rows, the turn at which it comes, whether it leaves early."""

steps = st.lists(
    st.tuples(
        st.lists(st.one_of(st.integers(0, 100), st.integers(0, 100), st.just(POISON), st.just(LETHAL)), min_size=1, max_size=9),
        st.integers(0, 12),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    callers=steps,
    max_batch=st.integers(1, 6),
    max_in_flight=st.integers(1, 3),
    max_wait_ms=st.sampled_from([0.0, 0.5, 10_000.0]),
    pauses=st.integers(0, 3),
)
def test_everyone_gets_exactly_their_own(callers: list[Step], max_batch: int, max_in_flight: int, max_wait_ms: float, pauses: int) -> None:
    """Whatever comes when, fails or leaves: each caller gets its own rows or its own failure, and nothing is left behind."""
    with Workers(2) as workers:
        answers = asyncio.run(_play(callers, BatchPolicy(max_batch, max_wait_ms, max_in_flight), workers, pauses))
    for (values, _, leaves), answer in zip(callers, answers, strict=True):
        if isinstance(answer, asyncio.CancelledError):
            assert leaves
        elif isinstance(answer, Unavailable):
            # The runtime broke down: whoever shared a batch with the lethal row hears of it.
            assert any(LETHAL in others for others, _, _ in callers)
        elif isinstance(answer, InvalidInput):
            assert POISON in values
        else:
            assert not isinstance(answer, BaseException), answer
            assert POISON not in values
            assert LETHAL not in values
            assert answer["doubled"][:, 0].tolist() == [2 * value for value in values]


async def _play(callers: Sequence[Step], policy: BatchPolicy, workers: Workers, pauses: int) -> list[Any]:
    """Let ``callers`` come and leave turn by turn before a backend that takes ``pauses`` turns a batch."""

    class Slow(ScriptedBackend):
        async def infer(self, network: str, inputs: Tensors) -> Tensors:
            for _ in range(pauses):
                await asyncio.sleep(0)
            return await super().infer(network, inputs)

    backend = BatchingBackend(Slow({"net": double}), {"net": policy}, workers)
    tasks: dict[int, asyncio.Task[Any]] = {}
    for turn in range(16):
        for index, (values, comes, leaves) in enumerate(callers):
            if comes == turn:
                tasks[index] = asyncio.create_task(backend.infer("net", rows(*values)))
            elif leaves and comes + 2 == turn:
                tasks[index].cancel()
        await asyncio.sleep(0)
    answers = await asyncio.gather(*(tasks[index] for index in range(len(callers))), return_exceptions=True)
    assert (await backend.infer("net", rows(7)))["doubled"][0, 0] == 14, "the network must go on afterwards"
    await backend.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return answers


def _part(name: str, arrived_s: float, lead_s: float = 0.0) -> Part:
    loop = asyncio.new_event_loop()
    try:
        return Part({"x": np.zeros((1, len(name)), np.float32)[:, :1]}, 1, arrived_s, loop.create_future(), lead_s)
    finally:
        loop.close()


def test_live_parts_go_first_within_their_lead():
    """A part of a camera overtakes parts that came less than its lead before it, and no older ones."""
    waiting = Waiting(BatchPolicy(max_batch=1))
    old, recent, live = _part("old", 0.0), _part("recent", 1.0), _part("live", 1.1, LIVE_LEAD_S)
    for part in (old, recent, live):
        waiting.put(part)
    assert [waiting.take(2.0, idle=True) for _ in range(3)] == [[old], [live], [recent]]

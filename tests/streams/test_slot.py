"""The slot: newest wins, stale frames are dropped and counted, files wait, nobody is woken for nothing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from face_server.clock import FakeClock
from face_server.domain.frame import Frame
from face_server.domain.streams import FramePolicy, StreamRules
from face_server.streams.slot import FrameSlot, Pace
from face_server.streams.status import FrameCounts


@dataclass
class Bench:
    """A slot, its clock and what went by."""

    clock: FakeClock
    counts: FrameCounts
    slot: FrameSlot
    tapped: list[int]

    def frame(self, number: int, age_s: float = 0.0, position_s: float | None = None) -> Frame:
        """A frame that was captured ``age_s`` ago."""
        now = self.clock.monotonic()
        return Frame(
            number,
            (32, 18),
            lambda width, height: np.zeros((height, width, 3), np.uint8),
            captured_at=now - age_s,
            taken_at=self.clock.now() - age_s,
            position_s=number / 25 if position_s is None else position_s,
        )


def make(live: bool = True, **rules: object) -> Bench:
    """An open slot under ``rules``."""
    clock, tapped = FakeClock(), []
    counts = FrameCounts(clock)
    slot = FrameSlot(StreamRules(**rules), clock, counts, lambda frame: tapped.append(frame.number))  # type: ignore[arg-type]
    slot.begin(live=live)
    return Bench(clock, counts, slot, tapped)


async def ready(slot: FrameSlot) -> Frame | None:
    """What is there now, if anything."""
    waiting = asyncio.ensure_future(slot.next())
    for _ in range(4):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


async def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    """While the analysis is busy, older due frames give way."""
    bench = make(max_fps=0)
    for number in range(5):
        bench.slot.take(bench.frame(number))
    frame = await ready(bench.slot)
    assert frame is not None
    assert frame.number == 4
    assert await ready(bench.slot) is None
    assert (bench.counts.decoded, bench.counts.dropped, bench.counts.stale) == (5, 4, 0)
    assert bench.tapped == [0, 1, 2, 3, 4]


async def test_every_frame_of_a_live_source_waits_within_a_bound() -> None:
    """``every`` keeps the order and drops the oldest beyond the bound."""
    bench = make(frames=FramePolicy.EVERY, max_fps=0)
    for number in range(20):
        bench.slot.take(bench.frame(number))
    numbers = [frame.number for _ in range(20) if (frame := await ready(bench.slot))]
    assert numbers == list(range(4, 20))
    assert bench.counts.dropped == 4


async def test_every_nth_frame_is_due() -> None:
    """The others are neither analysed nor counted as dropped."""
    bench = make(frames=FramePolicy.NTH, every_nth=3, max_fps=0)
    for number in range(10):
        bench.slot.take(bench.frame(number))
    assert [frame.number for _ in range(9) if (frame := await ready(bench.slot))] == [0, 3, 6, 9]
    assert bench.counts.dropped == 0


@pytest.mark.parametrize(("source_fps", "max_fps"), [(25, 5), (25, 10), (30, 4), (15, 7), (12.5, 5), (10, 25)])
async def test_the_analysed_rate_is_the_one_asked_for(source_fps: float, max_fps: float) -> None:
    """Also where the source's rate is no multiple of it, and never above the source's own."""
    bench, seen = make(max_fps=max_fps), 0
    for number in range(int(20 * source_fps)):
        bench.slot.take(bench.frame(number))
        seen += await ready(bench.slot) is not None
        await bench.clock.advance(1 / source_fps)
    assert abs(seen / 20 - min(source_fps, max_fps)) <= 0.1
    assert bench.counts.dropped == 0


def test_the_pace_survives_time_that_jumps() -> None:
    """A long gap is no debt, and time that runs back begins anew."""
    pace = Pace(5.0)
    assert pace.due(0.0)
    assert not pace.due(0.1)
    assert pace.due(100.0)
    assert not pace.due(100.1)
    assert pace.due(3.0)
    assert not pace.due(3.1)
    assert pace.due(3.2)


async def test_what_is_owed_is_the_newest_even_if_another_was_due() -> None:
    """After a long look, the frame that just came is analysed, not the one that was due a while ago."""
    bench = make(max_fps=5)
    for number in range(4):
        bench.slot.take(bench.frame(number))
        await bench.clock.advance(0.04)
    frame = await ready(bench.slot)
    assert frame is not None
    assert frame.number == 3
    assert bench.counts.dropped == 0


async def test_stale_frames_are_dropped_and_counted() -> None:
    """Too old on arrival, or grown too old while waiting: never analysed."""
    bench = make(max_fps=0, staleness_s=0.5)
    bench.slot.take(bench.frame(0, age_s=0.6))
    assert await ready(bench.slot) is None
    bench.slot.take(bench.frame(1, age_s=0.4))
    await bench.clock.advance(0.2)
    assert await ready(bench.slot) is None
    bench.slot.take(bench.frame(2, age_s=0.4))
    frame = await ready(bench.slot)
    assert frame is not None
    assert frame.number == 2
    assert (bench.counts.stale, bench.counts.dropped) == (2, 0)


async def test_the_loop_is_woken_only_for_frames_that_will_be_analysed() -> None:
    """Of 100 frames at 25 fps with 5 analysed a second, 20 wake the loop; while nobody waits, none does."""
    bench, woken = make(max_fps=5), 0
    call = bench.slot._loop.call_soon_threadsafe

    def counting(*arguments: object) -> object:
        nonlocal woken
        woken += 1
        return call(*arguments)  # type: ignore[arg-type]

    bench.slot._loop.call_soon_threadsafe = counting  # type: ignore[method-assign,assignment]
    try:
        for number in range(100):
            bench.slot.take(bench.frame(number))
            await ready(bench.slot)
            await bench.clock.advance(0.04)
        before = woken
        for number in range(100, 200):
            bench.slot.take(bench.frame(number))
            await bench.clock.advance(0.04)
    finally:
        del bench.slot._loop.call_soon_threadsafe  # type: ignore[method-assign]
    assert before <= 20
    assert woken - before <= 1


async def test_waiting_may_be_cancelled_without_losing_a_frame() -> None:
    """A frame that comes just as the waiter goes is the next one's."""
    bench = make(max_fps=0)
    waiting = asyncio.ensure_future(bench.slot.next())
    await asyncio.sleep(0)
    bench.slot.take(bench.frame(0))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    frame = await ready(bench.slot)
    assert frame is not None
    assert frame.number == 0


async def test_a_file_waits_for_its_reader() -> None:
    """Every frame counts, from another thread, however slow the analysis; then None says that it is over."""
    bench = make(live=False, max_fps=0)
    thread = threading.Thread(target=lambda: [bench.slot.take(bench.frame(number)) for number in range(50)])
    thread.start()
    numbers = []
    for _ in range(50):
        frame = await asyncio.wait_for(bench.slot.next(), 5)
        assert frame is not None
        numbers.append(frame.number)
        await asyncio.sleep(0.001)
    bench.slot.finish()
    assert await bench.slot.next() is None
    thread.join(5)
    assert numbers == list(range(50))
    assert (bench.counts.dropped, bench.counts.stale) == (0, 0)


async def test_closing_lets_a_held_back_file_go() -> None:
    """A reader that waits in ``take`` comes back at once, and what it brings afterwards is nobody's."""
    bench = make(live=False, max_fps=0)
    thread = threading.Thread(target=lambda: [bench.slot.take(bench.frame(number)) for number in range(50)])
    thread.start()
    while bench.counts.decoded < 3:  # noqa: ASYNC110 - a thread counts
        await asyncio.sleep(0.001)
    bench.slot.close()
    thread.join(5)
    assert not thread.is_alive()
    assert bench.counts.decoded == 3


async def test_the_frames_of_a_file_are_paced_by_their_place() -> None:
    """5 a second of a 25 fps file are every fifth, however fast it is read."""
    bench = make(live=False, max_fps=5)
    thread = threading.Thread(target=lambda: ([bench.slot.take(bench.frame(number)) for number in range(50)], bench.slot.finish()))
    thread.start()
    numbers = []
    while (frame := await asyncio.wait_for(bench.slot.next(), 5)) is not None:
        numbers.append(frame.number)
    thread.join(5)
    assert numbers == list(range(0, 50, 5))


async def test_the_rules_may_change_between_frames() -> None:
    """From every frame to none but each tenth, without a new slot."""
    bench = make(frames=FramePolicy.EVERY, max_fps=0)
    bench.slot.take(bench.frame(1))
    assert await ready(bench.slot) is not None
    bench.slot.change(StreamRules(frames=FramePolicy.NTH, every_nth=10, max_fps=0))
    bench.slot.take(bench.frame(2))
    assert await ready(bench.slot) is None
    bench.slot.take(bench.frame(10))
    assert await ready(bench.slot) is not None


async def test_silence_is_the_age_of_the_last_frame() -> None:
    """Counted from the opening until the first; a file that is held back is not silent."""
    bench = make()
    await bench.clock.advance(3)
    assert bench.slot.silence_s() == 3
    bench.slot.take(bench.frame(0))
    await bench.clock.advance(1)
    assert bench.slot.silence_s() == 1
    held = make(live=False, max_fps=0)
    held.slot.take(held.frame(0))
    await held.clock.advance(60)
    assert held.slot.silence_s() == 0

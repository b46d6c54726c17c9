"""Counters and rates of a stream, and when it counts as lost."""

from __future__ import annotations

import numpy as np
import pytest

from face_server.clock import FakeClock
from face_server.domain.events import EventKind
from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.streams import StreamState
from face_server.streams.presence import Presence
from face_server.streams.status import FrameCounts, Rate, StreamRecord


def frame(clock: FakeClock) -> Frame:
    """A frame of now."""
    return Frame(
        0,
        (32, 18),
        lambda width, height: np.zeros((height, width, 3), np.uint8),
        captured_at=clock.monotonic(),
        taken_at=clock.now(),
        position_s=0.0,
    )


@pytest.mark.parametrize("fps", [0.5, 5, 25, 29.97])
def test_a_rate_is_that_of_the_last_ten_seconds(fps: float) -> None:
    """From the second second on it is right; ten seconds after the last one it is 0."""
    rate, now = Rate(), 100.3
    for number in range(int(40 * fps)):
        now = 100.3 + number / fps
        rate.add(now)
        if 3 * fps < number:
            assert rate.read(now) == pytest.approx(fps, rel=0.12, abs=0.15)
    assert rate.read(now + 5) == pytest.approx(fps / 2, rel=0.2, abs=0.15)
    assert rate.read(now + 11) == 0


def test_nothing_has_no_rate() -> None:
    """Before the first and after one alone."""
    rate = Rate()
    assert rate.read(5.0) == 0
    rate.add(5.0)
    assert rate.read(5.0) == 0


async def test_latency_is_that_of_the_last_hundred_looks() -> None:
    """Median and 95th percentile, from capture to decision."""
    clock = FakeClock()
    record = StreamRecord("door", clock)
    for milliseconds in [5000] * 50 + list(range(1, 101)):
        at = clock.monotonic()
        await clock.advance(milliseconds / 1000)
        record.analyse(at)
    status = record.status(attempts=0, waiting="", publishing="", viewers=0)
    assert status.analysed == 150
    assert status.latency_s == pytest.approx(0.0505)
    assert status.latency_p95_s == pytest.approx(0.095)


async def test_a_state_has_a_since_and_a_reason_without_addresses() -> None:
    """``since`` moves with the state, not with the reason."""
    clock = FakeClock(now=1000.0)
    record = StreamRecord("door", clock)
    record.enter(StreamState.BACKING_OFF, "cannot reach rtsp://admin:secret@10.1.1.1/h264", "source_unreachable")
    await clock.advance(5)
    record.enter(StreamState.BACKING_OFF, "still not", "source_unreachable")
    status = record.status(attempts=2, waiting="", publishing="", viewers=0)
    assert (status.since, status.reason, status.attempts) == (1000.0, "still not", 2)
    record.enter(StreamState.BACKING_OFF, "cannot reach rtsp://admin:secret@10.1.1.1/h264")
    record.error("rtsp://admin:secret@10.1.1.1/h264 says no")
    status = record.status(attempts=2, waiting="", publishing="", viewers=0)
    assert "secret" not in f"{status}"
    assert "10.1.1.1" not in f"{status}"


def test_reconnects_count_from_the_second_connection() -> None:
    """The first is none."""
    record = StreamRecord("door", FakeClock())
    for expected in (0, 1, 2):
        record.connect(SourceInfo(640, 360, 25.0, "h264"))
        status = record.status(attempts=0, waiting="", publishing="", viewers=0)
        assert (status.reconnects, status.connected, status.codec, status.width) == (expected, True, "h264", 640)
        record.disconnect()


async def test_a_stream_is_lost_once_and_recovered_once() -> None:
    """Not for a short gap, not again while it stays away, not for a flash of frames; and never before it first worked."""
    clock = FakeClock()
    counts, presence, said = FrameCounts(clock), Presence(), []

    async def go(seconds: float, *, frames: bool) -> None:
        if not frames:
            counts.interrupted()
        for _ in range(round(seconds * 4)):
            await clock.advance(0.25)
            if frames:
                counts.decode(frame(clock))
            if kind := presence.tick(counts):
                said.append(kind)

    await go(20, frames=False)
    await go(1, frames=True)
    await go(10, frames=False)
    assert said == []
    await go(5, frames=True)
    await go(2.5, frames=False)
    await go(5, frames=True)
    assert said == []
    await go(60, frames=False)
    assert said == [EventKind.STREAM_LOST]
    await go(1, frames=True)
    await go(60, frames=False)
    assert said == [EventKind.STREAM_LOST]
    await go(5, frames=True)
    assert said == [EventKind.STREAM_LOST, EventKind.STREAM_RECOVERED]
    presence.rest()
    await go(60, frames=False)
    assert len(said) == 2


async def test_a_slow_camera_is_not_lost_between_its_frames() -> None:
    """One frame every 3.4 s of a source that says so: the connection is not stalled, so the stream is not lost, however often one looks."""
    clock = FakeClock()
    counts, presence, said = FrameCounts(clock), Presence(), []
    for _ in range(6):
        counts.decode(frame(clock))
        for _ in range(34):
            await clock.advance(0.1)
            if kind := presence.tick(counts):
                said.append(kind)
    assert said == []
    counts.interrupted()
    assert presence.tick(counts) is EventKind.STREAM_LOST
    assert presence.tick(counts) is None

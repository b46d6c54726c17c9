"""The synthetic camera fails in the ways it is told to."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from face_server.clock import FakeClock, SystemClock
from face_server.domain.frame import Frame
from face_server.errors import SourceFailed
from face_server.video.synthetic import SyntheticCamera, SyntheticOptions


async def pass_time(clock: FakeClock, seconds: float) -> None:
    """Let time pass with room for everybody."""
    for _ in range(round(seconds / 0.1)):
        await clock.advance(0.1)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_frames_come_at_their_time() -> None:
    """Ten a second are 50 in five seconds, each of its own moment, in any size that is wanted."""
    clock, frames = FakeClock(), []
    source = SyntheticCamera(clock, SyntheticOptions(fps=10, own_thread=False, delay_s=0.2)).connect()
    info = await source.open(frames.append)
    assert (info.width, info.height, info.fps, info.live) == (320, 180, 10, True)
    await pass_time(clock, 5)
    assert len(frames) == pytest.approx(50, abs=1)
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert frames[20].captured_at == pytest.approx(2.0 - 0.2, abs=0.11)
    assert frames[20].taken_at - frames[10].taken_at == pytest.approx(1.0, abs=0.11)
    assert frames[0].scaled(64).pixels.shape == (36, 64, 3)
    assert not np.array_equal(frames[0].image().pixels, frames[5].image().pixels)
    await source.close()


async def test_given_pictures_are_shown_in_turn() -> None:
    """Again and again, in their own size or another."""
    clock, frames = FakeClock(), []
    pictures = tuple(np.full((18, 32, 3), grey, np.uint8) for grey in (10, 200))
    options = SyntheticOptions(width=32, height=18, fps=10, pictures=pictures, own_thread=False)
    source = SyntheticCamera(clock, options).connect()
    await source.open(frames.append)
    await pass_time(clock, 0.5)
    await source.close()
    assert [int(frame.image().pixels[0, 0, 0]) for frame in frames[:4]] == [10, 200, 10, 200]


@pytest.mark.parametrize(("trouble", "code"), [("freeze", "source_timeout"), ("garble", "source_garbled"), ("die", "source_lost")])
async def test_every_trouble_ends_a_connection_by_its_name(trouble: str, code: str) -> None:
    """At once, or after the read timeout."""
    clock = FakeClock()
    camera = SyntheticCamera(clock, SyntheticOptions(fps=10, own_thread=False))
    source = camera.connect()
    await source.open(lambda _frame: None)
    await pass_time(clock, 1)
    getattr(camera, trouble)()
    ended = asyncio.ensure_future(source.ended())
    await pass_time(clock, 4.5)
    with pytest.raises(SourceFailed) as failed:
        await ended
    assert failed.value.code == code
    assert camera.connections == []
    await source.close()


async def test_a_refusal_says_whether_a_person_is_needed() -> None:
    """Changed credentials do, a dead camera does not; a frozen one times out."""
    clock = FakeClock()
    camera = SyntheticCamera(clock, SyntheticOptions(own_thread=False, open_timeout_s=5))
    camera.refuse_credentials()
    with pytest.raises(SourceFailed) as failed:
        await camera.connect().open(lambda _frame: None)
    assert (failed.value.code, failed.value.needs_operator) == ("source_credentials", True)
    camera.die()
    with pytest.raises(SourceFailed) as failed:
        await camera.connect().open(lambda _frame: None)
    assert (failed.value.code, failed.value.needs_operator) == ("source_unreachable", False)
    camera.heal()
    camera.freeze()
    opening = asyncio.ensure_future(camera.connect().open(lambda _frame: None))
    await pass_time(clock, 5.5)
    with pytest.raises(SourceFailed) as failed:
        await opening
    assert failed.value.code == "source_timeout"


async def test_a_file_waits_for_its_reader_and_ends() -> None:
    """Every frame is taken, in a thread of its own, one after the other; then ``ended`` returns."""
    taken: list[tuple[int, int]] = []
    go = threading.Semaphore(0)

    def take(frame: Frame) -> None:
        go.acquire(timeout=5)
        taken.append((frame.number, threading.get_ident()))

    source = SyntheticCamera(SystemClock(), SyntheticOptions(live=False, frames=5)).connect()
    info = await source.open(take)
    assert not info.live
    await asyncio.sleep(0.05)
    assert taken == []
    for _ in range(5):
        go.release()
    await asyncio.wait_for(source.ended(), 5)
    await source.close()
    assert [number for number, _ in taken] == list(range(5))
    assert {thread for _, thread in taken}.isdisjoint({threading.get_ident()})


def test_options_that_make_no_camera_are_refused() -> None:
    """No size, no rate, a file on the event loop, a picture that is none."""
    for wrong in ({"fps": 0}, {"width": 0}, {"live": False, "own_thread": False}, {"pictures": (np.zeros((2, 2), np.uint8),)}):
        with pytest.raises(ValueError, match="synthetic"):
            SyntheticOptions(**wrong)

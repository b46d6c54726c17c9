"""Snapshots and previews: drawn only while somebody looks, the newest for everybody, nobody slowed by anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import blockbuster
import cv2
import numpy as np
import pytest

from face_server.clock import SystemClock
from face_server.domain.streams import StreamRules, StreamSpec, StreamState
from face_server.errors import Overloaded, Unavailable
from face_server.streams.stream import StreamOptions
from face_server.streams.supervisor import Supervisor, SupervisorOptions
from face_server.streams.viewing import ViewingOptions

VIEWING = SupervisorOptions(stream=StreamOptions(viewing=ViewingOptions(max_viewers=3, preview_fps=20.0, card_after_s=0.3)))


@pytest.fixture
def lively(world):
    """A world with real time, whose drawings are counted."""
    world.clock = SystemClock()
    world.drawn = 0
    parts = world.parts

    def draw(pixels, tracks, footer):
        world.drawn += 1
        return parts.draw(pixels, tracks, footer)

    world.counted = Supervisor(
        type(parts)(parts.open_source, parts.open_watcher, parts.publish_events, draw, parts.draw_card, parts.encode, parts.workers),
        world.clock,
        VIEWING,
    )
    return world


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.01)


def decoded(jpeg: bytes) -> np.ndarray:
    """The pixels of a JPEG."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


async def test_a_snapshot_is_the_newest_frame(lively, spec: StreamSpec) -> None:
    """In full size, with boxes or without; Unavailable while the camera is away."""
    camera = lively.camera(width=640, height=360, fps=25.0, own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    await until(lambda: supervisor.status("door").analysed)
    assert lively.drawn == 0
    annotated, plain = await supervisor.snapshot("door"), await supervisor.snapshot("door", annotated=False)
    assert decoded(annotated).shape == decoded(plain).shape == (360, 640, 3)
    # The box of the face is grey lines on a ramp of grey: the footer at least must show.
    assert np.abs(decoded(annotated)[-12:].astype(int) - decoded(plain)[-12:]).mean() > 5
    assert lively.drawn == 1
    camera.die()
    await until(lambda: supervisor.status("door").state is not StreamState.RUNNING)
    with pytest.raises(Unavailable) as refused:
        await supervisor.snapshot("door")
    assert refused.value.code == "no_picture"
    await supervisor.close()


async def test_nothing_is_drawn_while_nobody_watches(lively, spec: StreamSpec) -> None:
    """Not before the first viewer, and not after the last."""
    lively.camera(fps=50.0, own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    await asyncio.sleep(0.3)
    assert lively.drawn == 0
    async with supervisor.preview("door") as pictures:
        for _ in range(3):
            decoded(await anext(pictures))
        assert supervisor.status("door").viewers == 1
    drawn = lively.drawn
    assert drawn >= 2
    await asyncio.sleep(0.3)
    assert lively.drawn == drawn
    assert supervisor.status("door").viewers == 0
    await supervisor.close()


async def test_viewers_share_pictures_and_a_slow_one_slows_nobody(lively, spec: StreamSpec) -> None:
    """Two quick viewers get 20 a second of 50 together with one draw each; one who takes one picture in a while costs them nothing."""
    lively.camera(fps=50.0, own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    got = {"quick": 0, "other": 0, "slow": 0}

    async def watch(name: str, pause_s: float) -> None:
        async with supervisor.preview("door") as pictures:
            async for _ in pictures:
                got[name] += 1
                await asyncio.sleep(pause_s)

    tasks = [asyncio.create_task(watch(*viewer)) for viewer in (("quick", 0), ("other", 0), ("slow", 0.6))]
    await asyncio.sleep(2.0)
    drawn = lively.drawn
    assert 25 <= got["quick"] <= 42
    assert abs(got["quick"] - got["other"]) <= 2
    assert 2 <= got["slow"] <= 5
    assert drawn <= max(got.values()) + got["slow"] + 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert supervisor.status("door").viewers == 0
    await supervisor.close()


async def test_viewers_are_bounded(lively, spec: StreamSpec) -> None:
    """One more than the limit is refused in words; one who leaves makes room."""
    lively.camera(own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    async with supervisor.preview("door"), supervisor.preview("door"):
        async with supervisor.preview("door"):
            with pytest.raises(Overloaded, match="3 previews"):
                async with supervisor.preview("door"):
                    pass
        async with supervisor.preview("door") as pictures:
            await anext(pictures)
    await supervisor.close()


async def test_a_preview_shows_that_the_camera_is_away_and_ends_with_the_stream(lively, spec: StreamSpec) -> None:
    """A card of the same size, then frames again; when the stream is removed, the preview is over."""
    camera = lively.camera(width=640, height=360, own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    async with supervisor.preview("door") as pictures:
        assert decoded(await anext(pictures)).mean() > 60
        camera.die()
        await until(lambda: supervisor.status("door").state is not StreamState.RUNNING)
        card = decoded(await anext(pictures))
        while card.mean() > 60:
            card = decoded(await anext(pictures))
        assert card.shape == (360, 640, 3)
        camera.heal()
        async with asyncio.timeout(5):
            while decoded(await anext(pictures)).mean() < 60:
                pass
        await supervisor.forget("door")
        rest = [picture async for picture in pictures]
        assert len(rest) <= 2
    await supervisor.close()


async def test_a_large_camera_is_previewed_small(lively, spec: StreamSpec) -> None:
    """Long side 1280, boxes scaled with it."""
    lively.camera(width=2560, height=1440, own_thread=True)
    supervisor = lively.counted
    await supervisor.start(spec)
    async with supervisor.preview("door") as pictures:
        assert decoded(await anext(pictures)).shape == (720, 1280, 3)
    await supervisor.close()


async def test_nothing_blocks_the_event_loop(lively, spec: StreamSpec) -> None:
    """Capture, analysis, a preview, snapshots, failures and the end, without one blocking call on the loop."""
    camera = lively.camera(fps=50.0, own_thread=True)
    with blockbuster.blockbuster_ctx():
        supervisor = lively.counted
        await supervisor.start(StreamSpec("door", spec.url, rules=StreamRules(max_fps=0)))
        async with supervisor.preview("door") as pictures:
            for _ in range(10):
                await anext(pictures)
            await supervisor.snapshot("door")
            camera.die()
            await asyncio.sleep(0.5)
            camera.heal()
            await until(lambda: supervisor.status("door").state is StreamState.RUNNING)
            assert supervisor.statuses()[0].analysed > 10
        await supervisor.close()

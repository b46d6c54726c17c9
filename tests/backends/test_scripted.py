"""The scripted backend: it does as it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from face_server.backends.scripted import ScriptedBackend
from face_server.errors import NotFound, Unavailable


def rows(*values: float) -> dict[str, NDArray[Any]]:
    """One tensor of one value a row."""
    return {"rows": np.array(values, np.float32)[:, None]}


async def test_canned_and_computed_answers() -> None:
    """Answers are canned tensors or made from the inputs; calls are recorded in order."""
    backend = ScriptedBackend({"canned": rows(7), "negative": lambda inputs: {"rows": -inputs["rows"]}})
    assert (await backend.infer("canned", rows(1)))["rows"].tolist() == [[7]]
    assert (await backend.infer("negative", rows(1, 2)))["rows"].tolist() == [[-1], [-2]]
    assert [(call.network, call.inputs["rows"].ravel().tolist()) for call in backend.calls] == [("canned", [1]), ("negative", [1, 2])]
    with pytest.raises(NotFound, match="'other'; scripted: canned, negative"):
        await backend.infer("other", rows(1))


async def test_failures() -> None:
    """It fails as often as told, only the network named, then answers again."""
    backend = ScriptedBackend({"one": rows(1), "two": rows(2)})
    backend.fail("one", Unavailable("away"), times=2)
    for _ in range(2):
        assert (await backend.infer("two", rows(0)))["rows"].item() == 2
        with pytest.raises(Unavailable, match="away"):
            await backend.infer("one", rows(0))
    assert (await backend.infer("one", rows(0)))["rows"].item() == 1


async def test_blocking() -> None:
    """Held answers wait for the release, and are counted as running until then."""
    backend = ScriptedBackend({"one": rows(1)})
    backend.block()
    tasks = [asyncio.create_task(backend.infer("one", rows(0))) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert backend.running == 3
    tasks[0].cancel()
    backend.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer["rows"].item() for answer in answers[1:]] == [1, 1]
    assert backend.running == 0


async def test_delay() -> None:
    """Each answer takes the delay."""
    backend = ScriptedBackend({"one": rows(1)}, delay_s=0.05)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await backend.infer("one", rows(0))
    assert loop.time() - started >= 0.049

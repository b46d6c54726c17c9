"""Nothing on the way of a request blocks the event loop."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import blockbuster
import httpx
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def watched() -> Iterator[None]:
    """Blocking calls on the event loop raise."""
    with blockbuster.blockbuster_ctx():
        yield


async def test_no_blocking_call(watched: None, client: httpx.AsyncClient, people: Path, two_people: bytes) -> None:
    """Every kind of body, enrolment, search, documentation and metrics do without blocking calls."""
    photos = await asyncio.to_thread(lambda: [path.read_bytes() for path in sorted((people / "obama").iterdir())[:2]])
    text = base64.b64encode(photos[0]).decode("ascii")
    large = two_people + bytes(3 << 20)
    replies = [
        await client.post("/v1/extract", json={"images": [text], "crops": True}),
        await client.post("/v1/extract", files=[("files", photos[0]), ("files", large)]),
        await client.post("/v1/detect", content=large, headers={"content-type": "image/jpeg"}),
        await client.post("/v1/collections/default/identities", json={"name": "Obama", "id": "obama", "images": [text]}),
        await client.post("/v1/collections/default/identify", files={"file": photos[1]}),
        await client.get("/v1/collections/default/identities/obama"),
        await client.delete("/v1/collections/default/identities/obama"),
        await client.get("/metrics"),
        await client.get("/docs"),
        await client.get("/static/swagger/swagger-ui-bundle.js"),
        await client.get("/openapi.json"),
    ]
    for reply in replies:
        assert reply.is_success, reply.text


async def test_lag_under_load(client: httpx.AsyncClient, two_people: bytes) -> None:
    """While pictures are analysed, by base64 and many at a time, the event loop turns."""
    body = json.dumps({"images": [base64.b64encode(two_people).decode("ascii")] * 8}).encode()
    lags = []
    load = [asyncio.create_task(client.post("/v1/extract", content=body, headers={"content-type": "application/json"})) for _ in range(4)]
    while not all(task.done() for task in load):
        started = time.perf_counter()
        await asyncio.sleep(0.002)
        lags.append(time.perf_counter() - started - 0.002)
    assert all(task.result().status_code == 200 for task in load)
    lags.sort()
    # The 95th percentile: a busy test machine delays single turns of any loop.
    assert lags[int(0.95 * len(lags))] < 0.05

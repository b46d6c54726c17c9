"""Strangers over HTTP: who they are, and what becomes of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio

from face_server.api.services import Cameras, Services
from face_server.domain.events import Event, EventKind, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look

pytestmark = pytest.mark.asyncio(loop_scope="module")

numbers = itertools.count(1)
Meet = Callable[[str], Awaitable[Who]]


@pytest_asyncio.fixture(loop_scope="module")
async def meet(services: Services, cameras: Cameras, people: Path) -> Meet:
    """Has somebody of the photos remembered as a stranger, with an event that says so."""

    async def meet(person: str) -> Who:
        photo = Image.from_pixels(np.asarray(cv2.imread(str(next((people / person).iterdir()))), np.uint8))
        (faces,) = await services.analyzer.analyze([photo], AnalysisOptions(crops=True))
        who = await cameras.strangers.remember(max(faces, key=lambda face: face.detection.box.area))
        assert who is not None
        number = next(numbers)
        face = SceneFace(1, Box(1, 2, 30, 40), 0.9, who, announced=True)
        event = Event(
            f"s{number}", EventKind.STRANGER_SEEN, "door", number, number, number, who=who, faces=(face,), message=f"{who.name} was seen"
        )
        await cameras.events.publish(StreamSpec("door", "rtsp://127.0.0.1:9/"), Look(events=(event,)))
        return who

    return meet


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nobody_left(client: httpx.AsyncClient) -> Any:
    """Each test begins without strangers and identities."""
    yield
    for one in (await client.get("/v1/strangers")).json()["strangers"]:
        await client.delete(f"/v1/strangers/{one['id']}")
    for one in (await client.get("/v1/collections/default/identities")).json()["identities"]:
        await client.delete(f"/v1/collections/default/identities/{one['id']}")


async def about(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    """Events about somebody."""
    events: list[dict[str, Any]] = (await client.get("/v1/events", params=query)).json()["events"]
    return events


async def test_who_they_are(client: httpx.AsyncClient, meet: Meet) -> None:
    """Listed page by page with number, times and picture."""
    met = [await meet(person) for person in ("obama", "biden")]
    found, cursor = [], None
    while True:
        page = (await client.get("/v1/strangers", params={"limit": 1} | ({"cursor": cursor} if cursor else {}))).json()
        found += page["strangers"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(one["id"] for one in found) == sorted(who.stranger_id for who in met)
    one = (await client.get(f"/v1/strangers/{met[0].stranger_id}")).json()
    assert (one["name"], one["sightings"]) == (met[0].name, 1)
    assert one["name"] == f"Stranger {one['number']}"
    picture = await client.get(one["picture"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR).shape == (112, 112, 3)


async def test_a_name_follows_everywhere(client: httpx.AsyncClient, meet: Meet) -> None:
    """The stranger becomes an identity that is recognised, and past events are about them."""
    who = await meet("obama")
    other = await meet("biden")
    named = await client.post(f"/v1/strangers/{who.stranger_id}/name", json={"name": "Barack"})
    body = named.json()
    assert (named.status_code, body["collection"], body["name"], body["events"]) == (200, "default", "Barack", 1)
    (event,) = await about(client, identity_id=body["identity_id"])
    assert (event["who"]["name"], event["who"]["stranger_id"], event["faces"][0]["who"]["name"]) == ("Barack", None, "Barack")
    assert event["message"] == "Barack was seen"
    assert len(await about(client, stranger_id=other.stranger_id)) == 1
    identity = (await client.get(f"/v1/collections/default/identities/{body['identity_id']}")).json()
    assert (identity["name"], len(identity["templates"])) == ("Barack", 1)
    assert (await client.get(f"/v1/strangers/{who.stranger_id}")).status_code == 404


async def test_becoming_part_of_somebody_enrolled(client: httpx.AsyncClient, meet: Meet) -> None:
    """The templates go to the identity that is named by its id."""
    await client.put("/v1/collections/default/identities/joe", json={"name": "Joe"})
    who = await meet("biden")
    named = await client.post(f"/v1/strangers/{who.stranger_id}/name", json={"identity_id": "joe"})
    assert (named.status_code, named.json()["name"]) == (200, "Joe")
    assert len((await client.get("/v1/collections/default/identities/joe")).json()["templates"]) == 1
    assert (await about(client, identity_id="joe"))[0]["who"]["name"] == "Joe"


async def test_a_look_alike_is_a_conflict(client: httpx.AsyncClient, meet: Meet) -> None:
    """Somebody who looks like an enrolled person is not made another one unawares; whoever insists may."""
    first = await meet("biden")
    assert (await client.post(f"/v1/strangers/{first.stranger_id}/name", json={"name": "Joe"})).status_code == 200
    again = await meet("biden")
    refused = await client.post(f"/v1/strangers/{again.stranger_id}/name", json={"name": "Somebody"})
    assert (refused.status_code, refused.json()["code"]) == (409, "identity_conflict")
    assert "Joe" in refused.json()["detail"]
    assert (await client.get(f"/v1/strangers/{again.stranger_id}")).status_code == 200
    insisted = await client.post(f"/v1/strangers/{again.stranger_id}/name", json={"name": "Twin", "override": True})
    assert insisted.status_code == 200


async def test_merging(client: httpx.AsyncClient, meet: Meet) -> None:
    """One stranger stays, with the events of both."""
    one, two = await meet("obama"), await meet("biden")
    merged = await client.post(f"/v1/strangers/{one.stranger_id}/merge", json={"into": two.stranger_id})
    assert (merged.status_code, merged.json()["id"], merged.json()["sightings"]) == (200, two.stranger_id, 2)
    assert [event["who"]["name"] for event in await about(client, stranger_id=two.stranger_id)] == [two.name, two.name]
    assert await about(client, stranger_id=one.stranger_id) == []
    itself = await client.post(f"/v1/strangers/{two.stranger_id}/merge", json={"into": two.stranger_id})
    assert (itself.status_code, itself.json()["field"]) == (422, "into")


async def test_dismissing(client: httpx.AsyncClient, meet: Meet) -> None:
    """Who is dismissed is forgotten; what happened stays."""
    who = await meet("obama")
    assert (await client.delete(f"/v1/strangers/{who.stranger_id}")).status_code == 204
    assert (await client.get("/v1/strangers")).json()["strangers"] == []
    assert len(await about(client, stranger_id=who.stranger_id)) == 1


@pytest.mark.parametrize("patience_s", [0.002, 0.004, 0.008, 0.016])
async def test_a_client_that_leaves_leaves_nothing_half_done(client: httpx.AsyncClient, meet: Meet, patience_s: float) -> None:
    """Whoever hangs up in the middle of naming finds identity and events in agreement."""
    who = await meet("obama")
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await client.post(f"/v1/strangers/{who.stranger_id}/name", json={"name": "Barack"})
    async with asyncio.timeout(5):
        while (await client.get(f"/v1/strangers/{who.stranger_id}")).status_code == 200:
            if not (await client.get("/v1/collections/default/identities")).json()["identities"]:
                # It left before its request began.
                return
        while not (found := await about(client, identity_id=who.stranger_id)):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    assert found[0]["who"]["name"] == "Barack"


async def test_unknown_ids(client: httpx.AsyncClient, meet: Meet) -> None:
    """Every route says 404, also for the other side of a merge and for identities and collections that are not there."""
    who = await meet("obama")
    known = f"/v1/strangers/{who.stranger_id}"
    for method, path, body in (
        ("GET", "/v1/strangers/nobody", None),
        ("GET", "/v1/strangers/nobody/picture", None),
        ("DELETE", "/v1/strangers/nobody", None),
        ("POST", "/v1/strangers/nobody/name", {"name": "X"}),
        ("POST", "/v1/strangers/nobody/merge", {"into": who.stranger_id}),
        ("POST", f"{known}/merge", {"into": "nobody"}),
        ("POST", f"{known}/name", {"identity_id": "nobody"}),
        ("POST", f"{known}/name", {"name": "X", "collection": "nowhere"}),
    ):
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (path, answer.text)
    assert (await client.get(known)).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"name": "X", "identity_id": "y"}, {"name": ""}, {"name": "X", "collection": "strangers"}, {"who": "X"}]
)
async def test_bad_names(client: httpx.AsyncClient, meet: Meet, body: dict[str, Any]) -> None:
    """Neither nobody nor two people at once, nor a stranger again."""
    who = await meet("obama")
    assert (await client.post(f"/v1/strangers/{who.stranger_id}/name", json=body)).status_code == 422

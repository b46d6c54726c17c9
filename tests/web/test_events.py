"""The console's view of events."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from selenium.webdriver.support.ui import Select

from face_server.clock import SystemClock
from face_server.domain.event_ids import new_event_id
from face_server.domain.events import Event, EventKind, Picture, Who
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal

ARRIVALS = ["person_seen", "stranger_seen", "stream_lost", "stream_recovered"]
PEOPLE = {"Alex": "alex_lacamoire/img1.jpg", "Lin": "lin_manuel_miranda/1.png"}


class Wire:
    """What lies between the browser and the server; it can be cut."""

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self._target = (where.hostname, where.port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.whole = True
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End what is connected, and let nothing through until ``whole`` is set again."""
        self.whole = False
        for one in tuple(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if not self.whole:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for source, sink in ((client, server), (server, client)):
                    self._open.add(source)
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        # Not merely closed: that tells the other side nothing while a thread still reads there.
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@pytest.fixture
def wire(page) -> Iterator[Wire]:
    """The browser's connection to the server."""
    wire = Wire(page.address)
    yield wire
    page.leave()
    wire.close()


def journal(page, **query) -> list[dict]:
    """Events as the API pages them, newest first."""
    return httpx.get(f"{page.address}/v1/events", params={"limit": 1000, **query}).json()["events"]


def cursors(page) -> list[int]:
    """The events that are shown, in their order."""
    return page.run("return [...document.querySelectorAll('#event-list li')].map((one) => Number(one.dataset.cursor))")


def test_events_as_they_happen(console, watch, enroll):
    """Whoever is seen appears with best shot, camera, similarity and time; the frame opens; filters ask the server."""
    for name, photo in PEOPLE.items():
        enroll(name, photo)
    console.press("nav a", "Events")
    console.one("#events-live", "Live")
    watch(name="Stage")
    console.until(lambda: {"Alex", "Lin"} <= set(console.texts("#event-list .name")), "who is on the stage")
    assert cursors(console) == sorted(cursors(console), reverse=True)
    console.until(lambda: console.run("return document.querySelector('#event-list img')?.naturalWidth") == 112, "the best shot")
    console.until(lambda: "Stage" in console.one("#event-list a", "Lin").text, "the name of a camera that is new")
    lin = console.one("#event-list a", "Lin").text
    assert re.search(r"\d\d:\d\d:\d\d", lin)
    assert re.search(r"Stage · 0\.[4-9]\d", lin)
    console.press("#event-list a", "Lin")
    console.one("#event h2", "Lin")
    console.until(lambda: console.run("return document.querySelector('#event .screen img')?.naturalWidth") == 640, "the frame")
    assert "needs 0." in console.one("#event .figures").text
    assert console.fits()
    Select(console.one("#event-kind")).select_by_visible_text("Known people")
    console.until(lambda: set(console.texts("#event-list .name")) == {"Alex", "Lin"}, "known people alone")
    console.press("#event a", "Open Lin")
    console.one(".person h2", "Lin")


def test_a_lost_connection(page, wire, watch, enroll):
    """Without a connection the page says so; afterwards it goes on where it was: nothing is missed, nothing shown twice."""
    enroll("Alex", PEOPLE["Alex"])
    page.address, direct = wire.address, page.address
    page.visit("/#events")
    page.one("#events-live", "Live")
    before = len(cursors(page))
    page.address = direct
    camera = watch(name="Stage")
    page.until(lambda: len(cursors(page)) > before, "the first event")
    wire.cut()
    page.one("#events-live", "Not connected: ")
    newest = cursors(page)[0]
    page.until(lambda: journal(page, after=newest, kind=ARRIVALS), "events meanwhile")
    assert cursors(page)[0] == newest
    wire.whole = True
    page.one("#events-live", "Live")
    httpx.delete(f"{page.address}/v1/streams/{camera}").raise_for_status()
    happened = [one["cursor"] for one in journal(page, kind=ARRIVALS)]
    page.until(lambda: cursors(page)[0] != newest and cursors(page) == happened[: len(cursors(page))], "the same events")
    assert [one for one in page.complaints() if "net::ERR_" not in one] == []


async def remember(data: Path, number: int) -> None:
    """Let ``number`` people have been seen, each with the same best shot."""
    now = time.time()
    shot = Picture(new_event_id(now), cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))[1].tobytes())
    seen = [
        Event(
            id=new_event_id(now),
            kind=EventKind.PERSON_SEEN,
            stream_id="gate",
            at=now - number + index,
            started_at=now - number + index,
            ended_at=now - number + index,
            who=Who(f"Person {index}", 0.6, 0.4, collection="default", identity_id="0123456789abcdef"),
            picture=shot.id,
            message=f"Person {index} was seen on gate",
        )
        for index in range(number)
    ]
    journal = await SqliteJournal.open(data / "journal.sqlite", SystemClock(), Sealer.from_file(data / "secret.key"))
    await journal.append(seen, [shot], {})
    await journal.close()


def test_before_and_with_a_key(page, serve, make_data, face_server, stage):
    """Where a key is asked for, events, their pictures and a camera's picture come all the same; older events come page by page."""
    data = make_data()
    made = {role: face_server("keys", "create", "--role", role, "--data", data).out for role in ("read", "operate")}
    keys = {role: re.search(r"fsk_\S+|\S{32,}", out).group() for role, out in made.items()}
    asyncio.run(remember(data, 60))
    with serve(data) as address:
        httpx.post(
            f"{address}/v1/streams", json={"url": stage.url, "name": "Stage"}, headers={"x-api-key": keys["operate"]}
        ).raise_for_status()
        page.address = address
        page.visit("/#events")
        page.type("dialog input", keys["read"])
        page.press("dialog button", "Continue")
        page.one("#events-live", "Live")
        Select(page.one("#event-kind")).select_by_visible_text("Known people")
        page.until(lambda: page.texts("#event-list .name")[::49] == ["Person 59", "Person 10"], "the newest fifty")
        page.until(lambda: page.run("return document.querySelector('#event-list img')?.naturalWidth") == 112, "a best shot")
        page.press("#older-events")
        page.until(lambda: len(cursors(page)) == 60, "all of them")
        assert cursors(page) == sorted(cursors(page), reverse=True)
        assert page.all("#older-events") == []
        page.press("nav a", "Cameras")
        page.press(".camera-entry", "Stage")
        page.until(lambda: page.all(".screen") and not page.all(".veil"), "the picture")
        assert page.brightness() > 0
        page.press("#camera button", "Pause")
        page.one("#camera .notice.bad", "needs the role 'operate'")
        requested = page.run("return performance.getEntriesByType('resource').map((one) => one.name).join()")
        assert not any(key in requested for key in keys.values())
        page.run("sessionStorage.clear()")
        page.leave()

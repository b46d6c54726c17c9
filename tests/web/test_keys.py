"""The console of a server that asks for API keys."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest


@pytest.fixture
def keyed(page, serve, make_data, face_server):
    """The page, about to visit a server with keys, and a key of each of two roles."""
    data = make_data()
    keys = {
        role: re.search(r"fsk_\S+|\S{32,}", face_server("keys", "create", "--role", role, "--data", data).out).group()
        for role in ("read", "admin")
    }
    with serve(data) as address:
        page.address = address
        yield page, keys


def test_the_key_is_asked_for_once(keyed, shared: Path):
    """Without the key nothing is shown; with it everything is, crops too; it stands in no address and outlives no tab."""
    page, keys = keyed
    page.visit()
    assert "asks for an API key" in page.one("dialog").text
    page.type("dialog input", "wrong")
    page.press("dialog button", "Continue")
    page.one("dialog", "unknown or revoked")
    page.type("dialog input", keys["admin"])
    page.press("dialog button", "Continue")
    page.one("#about", "yunet")
    page.open_photo(shared / "data/photos/scenes/two_people.jpg")
    page.press(".face button", "Remember as…")
    page.type(".remember input", "Barack")
    page.press(".remember button", "Remember")
    page.reads(".face h3 .name", "Barack", "Unknown")
    page.press(".candidates a", "Barack")
    page.until(lambda: page.run("return document.querySelector('.templates img')?.naturalWidth") == 112, "the crop")
    requested = page.run("return performance.getEntriesByType('resource').map((one) => one.name).join()")
    assert "crop.jpg" in requested
    assert keys["admin"] not in requested
    assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
    page.visit()
    page.one("#about", "yunet")
    page.press("#metrics")
    page.one("body", "face_server_")
    page.run("sessionStorage.clear()")


def test_a_role_that_is_too_low_is_told(keyed, shared: Path):
    """A key that may only read recognises, and is told in a sentence what else needs."""
    page, keys = keyed
    page.visit()
    page.type("dialog input", keys["read"])
    page.press("dialog button", "Continue")
    page.one("#about", "yunet")
    page.open_photo(shared / "data/photos/scenes/two_people.jpg")
    page.press(".face button", "Remember as…")
    page.type(".remember input", "Barack")
    page.press(".remember button", "Remember")
    assert "needs the role 'operate'" in page.one(".remember .notice").text
    page.run("sessionStorage.clear()")


def test_no_key_no_pictures(keyed):
    """What fetches pictures for the page needs the key as well, and leaving the question leaves a way to try again."""
    page, _ = keyed
    assert httpx.post(f"{page.address}/console/picture", json={"url": "https://example.org/x.jpg"}).status_code == 401
    page.visit()
    page.press("dialog button", "Cancel")
    page.one("#trouble", "An API key is needed")
    page.press("#trouble button", "Try again")
    page.one("dialog")

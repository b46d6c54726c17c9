"""The console's view of strangers."""

from __future__ import annotations

import httpx
import pytest
from selenium.webdriver.support.ui import Select

HOSTILE = '<img src=x onerror="document.title=1"> 张伟'


def strangers(page):
    """The names of all strangers, by the API."""
    return {one["name"]: one["id"] for one in httpx.get(f"{page.address}/v1/strangers").json()["strangers"]}


def act(page, name, button):
    """Press a button of a stranger's card."""
    page.until(lambda: page.all(".stranger", name), name)
    card = page.all(".stranger", name)[0]
    page.run(
        "[...arguments[0].querySelectorAll('button')].find((one) => one.textContent === arguments[1]).click()",
        card,
        button,
    )


@pytest.fixture
def four(console, watch):
    """The strangers' view after four people were seen whom nobody knows; the camera is gone."""
    console.press("nav a", "Strangers")
    assert "remembered here" in console.one("#no-stranger").text
    camera = watch(name="Stage")
    console.until(lambda: len(console.all(".stranger")) >= 4, "four strangers")
    httpx.delete(f"{console.address}/v1/streams/{camera}").raise_for_status()
    console.until(lambda: set(console.texts(".stranger h2")) == set(strangers(console)), "everybody")
    return console


def test_strangers_are_named_merged_and_forgotten(four, collection):
    """The grid shows everybody with best shot and visits; each can be forgotten, made one with another, and given a name old or new."""
    page = four
    first, second, third, fourth = sorted(strangers(page))[:4]
    assert "visit" in page.one(".stranger", first).text
    page.until(
        lambda: page.run("return [...document.querySelectorAll('.stranger img')].filter((one) => one.naturalWidth === 112).length") >= 4,
        "shots",
    )
    assert page.fits()
    act(page, first, "Forget…")
    assert "Past events stay" in page.one("dialog").text
    page.press("dialog button", "Cancel")
    act(page, first, "Forget…")
    page.press("dialog button", "Forget")
    page.until(lambda: first not in page.texts(".stranger h2"), "one less")
    assert first not in strangers(page)
    act(page, second, "Merge…")
    page.press("dialog .options label", third)
    page.press("dialog button", "Merge")
    page.until(lambda: second not in page.texts(".stranger h2"), "one less")
    act(page, third, "Name…")
    page.type(".remember input", HOSTILE)
    page.press(".remember button", "Remember")
    page.until(lambda: third not in page.texts(".stranger h2"), "one less")
    page.reads("#people-count", "1")
    act(page, fourth, "Name…")
    page.type(".remember input", HOSTILE)
    page.press(".remember button", "Remember")
    page.one(".remember p", "Somebody of this name is enrolled already")
    page.run("const who = document.querySelector('.remember select'); who.selectedIndex = 1; who.dispatchEvent(new Event('change'))")
    page.press(".remember button", "Remember")
    page.until(lambda: fourth not in page.texts(".stranger h2"), "one less")
    page.reads("#people-count", "1")
    (person,) = httpx.get(f"{page.address}/v1/collections/{collection}/identities").json()["identities"]
    assert (person["name"], person["template_count"] >= 2) == (HOSTILE, True)
    page.press("nav a", "Events")
    page.until(lambda: page.texts("#event-list .name").count(HOSTILE) >= 3, "past events to follow")
    assert page.run("return document.querySelectorAll('[onerror]').length") == 0


def test_from_an_event_to_a_name(console, watch):
    """An event of a stranger leads to the card where they get a name, whatever the order of the list; one who is gone is told."""
    camera = watch(name="Stage")
    console.press("nav a", "Events")
    console.until(lambda: "Stage" in console.one("#event-camera").text, "the camera")
    Select(console.one("#event-camera")).select_by_value(camera)
    console.press("#event-list a", "Stranger")
    name = console.one("#event h2", "Stranger").text
    console.press("#event a", "Give this stranger a name")
    console.until(lambda: console.run("return document.activeElement.textContent") == name, "the keyboard on the card")
    httpx.delete(f"{console.address}/v1/strangers/{strangers(console)[name]}")
    console.press("nav a", "Events")
    console.press("#event-list a", name)
    console.press("#event a", "Give this stranger a name")
    console.one("#strangers-trouble", "is forgotten")

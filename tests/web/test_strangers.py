"""The console's view of strangers."""

from __future__ import annotations

import httpx
from selenium.webdriver.support.ui import Select

HOSTILE = '<img src=x onerror="document.title=1"> 张伟'
SHOTS = "return [...document.querySelectorAll('.stranger img')].filter((one) => one.naturalWidth === 112).length"


def strangers(page):
    """All strangers by name, as the API lists them."""
    return {one["name"]: one["id"] for one in httpx.get(f"{page.address}/v1/strangers").json()["strangers"]}


def card(page, name):
    """The card of a stranger of exactly this name."""
    return page.until(lambda: [one for one in page.all(".stranger") if name in one.text.splitlines()], name)[0]


def act(page, name, button):
    """Press a button of a stranger's card."""
    script = "[...arguments[0].querySelectorAll('button')].find((one) => one.textContent === arguments[1]).click()"
    page.until(lambda: page.run(script, card(page, name), button) is None, button)


def give_name(page, stranger, name):
    """Fill in who a stranger is."""
    act(page, stranger, "Name…")
    page.type(".remember input", name)
    page.press(".remember button", "Remember")


def test_strangers_are_merged_and_forgotten(console, watch):
    """Whoever is not known appears with best shot and visits; can be made one with another, and forgotten."""
    console.press("nav a", "Strangers")
    assert "remembered here" in console.one("#no-stranger").text
    camera = watch()
    console.until(lambda: len(console.all(".stranger")) >= 2, "two strangers")
    httpx.delete(f"{console.address}/v1/streams/{camera}").raise_for_status()
    console.until(lambda: set(console.texts(".stranger h2")) == set(strangers(console)), "everybody")
    first, second, *others = strangers(console)
    assert "1 visit" in card(console, first).text
    console.until(lambda: console.run(SHOTS) == len(others) + 2, "their shots")
    assert console.fits()
    act(console, first, "Merge…")
    console.type("dialog input[type=search]", second)
    console.until(lambda: [one.click() for one in console.all("dialog .options label") if one.text == second], second)
    console.press("dialog button", "Merge")
    console.until(lambda: set(console.texts(".stranger h2")) == {second, *others}, "one less")
    act(console, second, "Forget…")
    console.press("dialog button", "Cancel")
    act(console, second, "Forget…")
    assert "Past events stay" in console.one("dialog").text
    console.press("dialog button", "Forget")
    console.until(lambda: set(console.texts(".stranger h2")) == set(others), "one less")
    assert set(strangers(console)) == set(others)


def test_from_an_event_to_a_name(console, watch, collection):
    """An event of a stranger leads to the card where they get a name, new or enrolled already; past events follow."""
    camera = watch(name="Stage")
    console.press("nav a", "Events")
    console.until(lambda: "Stage" in console.one("#event-camera").text, "the camera")
    Select(console.one("#event-camera")).select_by_value(camera)
    console.until(lambda: len(console.all("#event-list a", "Stranger")) >= 2, "two strangers")
    httpx.delete(f"{console.address}/v1/streams/{camera}").raise_for_status()
    console.press("#event-list a", "Stranger")
    first = console.one("#event h2", "Stranger").text
    console.press("#event a", "Give this stranger a name")
    console.until(lambda: console.run("return document.activeElement.textContent") == first, "the keyboard on the card")
    give_name(console, first, HOSTILE)
    console.until(lambda: first not in console.texts(".stranger h2"), "one less")
    console.reads("#people-count", "1")
    second = console.texts(".stranger h2")[0]
    give_name(console, second, HOSTILE)
    console.one(".remember p", "Somebody of this name is enrolled already")
    Select(console.one(".remember select")).select_by_index(1)
    console.press(".remember button", "Remember")
    console.until(lambda: second not in console.texts(".stranger h2"), "one less")
    (person,) = httpx.get(f"{console.address}/v1/collections/{collection}/identities").json()["identities"]
    assert person["name"] == HOSTILE
    assert person["template_count"] >= 2
    console.browser.back()
    console.until(lambda: console.texts("#event-list .name").count(HOSTILE) >= 2, "past events to follow")
    assert console.one("#event h2").text == HOSTILE
    assert console.run("return document.querySelectorAll('[onerror]').length") == 0
    console.run("location.hash = '#strangers/0123456789abcdef'")
    console.one("#strangers-trouble", "is forgotten")

"""The console's second view: the people of a collection."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture
def photos(shared: Path) -> Path:
    """Photos of people, one folder a person."""
    return shared / "data/photos/people"


def crops(page):
    """How many crops of the opened person are drawn."""
    return page.run("return [...document.querySelectorAll('.templates img')].filter((one) => one.naturalWidth === 112).length")


def test_a_person_from_name_to_recognition(console, photos, shared):
    """Somebody is added by name; several photos at once each get their own answer; then a scene is recognised."""
    console.press("nav a", "People")
    assert "Nobody yet" in console.one("#found").text
    console.press("#add-person")
    console.type("dialog input", "Joe Biden")
    console.press("dialog button", "Add")
    assert "cannot be recognised yet" in console.one(".person .notice").text
    console.choose_files(".person input[type=file]", photos / "biden/biden2.jpg", photos / "biden/biden.jpg", photos / "biden/biden.jpg")
    console.until(lambda: len(console.all(".report .bad")) == 2 and console.all(".report .good"), "three answers")
    refused, added, twice = console.texts(".report li")
    assert "The picture shows 3 faces" in refused
    assert "Added." in added
    assert "already enrolled" in twice
    console.until(lambda: crops(console) == 1, "the crop")
    console.press(".report button", "Add anyway")
    console.until(lambda: crops(console) == 2, "both crops")
    console.reads(".entry", "Joe Biden\n2 templates")
    console.open_photo(shared / "data/photos/scenes/obama_and_biden.jpg")
    console.reads(".face h3 .name", "Joe Biden", "Unknown", "Unknown")


def test_rename_merge_delete(console, enroll, shared):
    """What is done to people is done at once: to the list, to the templates, and to what photos are answered."""
    first = enroll("Barak", "obama/obama.jpg")
    enroll("Obama again", "obama/obama2.jpg", "obama/obama3.jpg")
    enroll("Biden", "biden/biden.jpg")
    console.press("nav a", "People")
    console.press(".entry", "Barak")
    console.press(".person button", "Rename…")
    console.type("dialog input", "Barack")
    console.one("dialog input").send_keys(Keys.ENTER)
    console.one(".person h2", "Barack")
    console.press(".person button", "Merge into another person…")
    console.type("dialog input[type=search]", "again")
    console.press("dialog .options label", "Obama again")
    console.press("dialog button", "Merge")
    console.one(".person h2", "Obama again")
    console.reads(".entry .name", "Biden", "Obama again")
    console.until(lambda: crops(console) == 3, "the crops of both")
    console.press(".templates button", "Delete")
    console.press("dialog button", "Delete")
    console.until(lambda: crops(console) == 2, "one template less")
    console.open_photo(shared / "data/photos/scenes/obama1.jpg")
    console.reads(".face h3 .name", "Obama again")
    console.press(".candidates a", "Obama again")
    console.press(".person button", "Delete this person…")
    console.press("dialog button", "Cancel")
    console.press(".person button", "Delete this person…")
    console.press("dialog button", "Delete")
    console.reads(".entry .name", "Biden")
    console.press("nav a", "Recognise")
    console.reads(".face h3 .name", "Unknown")
    assert httpx.get(f"{console.address}/v1/collections/default/identities/{first}").status_code == 404


def test_hostile_names_stay_text(console, enroll, shared):
    """Markup in a name is shown, never run, wherever names appear; names in any script are shown."""
    enroll(HOSTILE, "obama/obama.jpg")
    enroll("王小明 さくら 홍길동", "biden/biden.jpg")
    console.open_photo(shared / "data/photos/scenes/two_people.jpg")
    console.reads(".face h3 .name", HOSTILE, "王小明 さくら 홍길동")
    console.press("nav a", "People")
    console.reads(".entry .name", HOSTILE, "王小明 さくら 홍길동")
    console.press(".entry", HOSTILE)
    console.one(".person h2", HOSTILE)
    console.press(".person button", "Delete this person…")
    assert HOSTILE in console.one("dialog h2").text
    console.press("dialog button", "Cancel")
    assert console.browser.title == "People · face_server"
    assert console.run("return document.querySelectorAll('[onerror]').length") == 0


def test_markup_cannot_be_written(console):
    """Even if a script tried to, the page's policy lets no text become markup."""
    with pytest.raises(Exception, match="TrustedHTML"):
        console.run("document.body.innerHTML = '<b>x</b>'")
    console.until(lambda: any("TrustedHTML" in one for one in console.complaints()), "the violation")


def test_search(console, collection):
    """People are found by any part of their name, without regard to case and accents."""
    for name in ("Zoë Müller", "Bob", "zoe again"):
        httpx.post(f"{console.address}/v1/collections/{collection}/identities", json={"name": name}).raise_for_status()
    console.press("nav a", "People")
    console.reads(".entry .name", "Bob", "zoe again", "Zoë Müller")
    console.type("#search", "ZOE")
    console.reads(".entry .name", "zoe again", "Zoë Müller")
    assert console.one("#found").text == "2 people found."
    console.type("#search", "nobody")
    console.reads(".entry .name")
    assert console.one("#found").text == "Nobody of that name."


def test_a_long_list_comes_in_pieces(console, collection):
    """Hundreds of people are listed a hundred at a time."""
    route = f"{console.address}/v1/collections/{collection}/identities"
    with httpx.Client() as client:
        for index in range(130):
            client.post(route, json={"name": f"Person {index}"}).raise_for_status()
    console.press("nav a", "People")
    console.until(lambda: len(console.all(".entry")) == 100, "the first hundred")
    console.press("#list button", "Show 30 more")
    console.until(lambda: len(console.all(".entry")) == 130, "everybody")
    assert console.texts(".entry .name")[10] == "Person 10"


def test_somebody_who_is_gone(console, collection, enroll):
    """An address of a person who was erased by others says so."""
    gone = enroll("Ada", "obama/obama.jpg")
    httpx.delete(f"{console.address}/v1/collections/{collection}/identities/{gone}")
    console.run("location.hash = arguments[0]", f"#people/{gone}")
    console.one(".person .hint", "not enrolled any more")


@pytest.mark.parametrize("width", [360, 820])
def test_it_fits_narrow_screens(console, enroll, shared, width):
    """On a phone nothing sticks out sideways, and a person replaces the list with a way back."""
    enroll("A name that is as long as names may be " + "and longer" * 15, "biden/biden.jpg")
    console.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        console.open_photo(shared / "data/photos/scenes/obama_and_biden.jpg")
        assert console.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        console.press("nav a", "People")
        console.press(".entry", "A name")
        console.one(".person h2", "A name")
        assert console.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        assert console.all("#list") == []
        console.press(".back")
        console.one("#list")
    finally:
        console.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

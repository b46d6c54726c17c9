"""The console's view of cameras."""

from __future__ import annotations

import re

import httpx
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

HOSTILE = '<img src=x onerror="document.title=1"> 门口'


def stream(page, stream_id):
    """A camera as the API shows it."""
    return httpx.get(f"{page.address}/v1/streams/{stream_id}").json()


def open_camera(page, name):
    """Open a camera from the list and wait for its picture."""
    page.press("nav a", "Cameras")
    page.press(".camera-entry", name)
    page.one("#camera h2", name)
    page.until(lambda: not page.all(".veil") and page.brightness() > 5, "the picture")


def test_a_camera_from_its_address_to_its_picture(console, watch, stage, collection):
    """Without cameras the page says what to do; an address can be tried; a camera that was added moves and tells how it is."""
    console.press("nav a", "Cameras")
    assert "face-server demo video.mp4" in console.one("#no-camera").text
    console.press("#add-camera")
    console.type("dialog .joined input", "gopher://192.168.1.20/")
    console.press("dialog button", "Try")
    console.one("dialog .notice.bad", "rtsp")
    console.press("dialog button", "Add")
    console.until(lambda: len(console.all("dialog .notice.bad", "rtsp")) == 2, "the refusal")
    console.type("dialog .joined input", stage.url)
    console.press("dialog button", "Try")
    assert "640 × 360 pixels at" in console.one("dialog .good", "h264").text
    console.type("dialog label input", "Stage")
    console.press("dialog .check", "Remember and announce strangers")
    console.press("dialog button", "Add")
    console.one("#camera .badge", "running")
    console.until(lambda: not console.all(".veil") and console.brightness() > 5, "the picture")
    before = console.brightness()
    console.until(lambda: abs(console.brightness() - before) > 0.1, "the picture to move")
    figures = console.until(
        lambda: console.one(".figures").text if re.search(r"[1-9]\.\d of [23]\d\.\d", console.one(".figures").text) else "", "figures"
    )
    assert "640 × 360, h264" in figures
    console.reads("#camera-list .badge", "running")
    (known,) = httpx.get(f"{console.address}/v1/streams").json()["streams"]
    assert (known["name"], known["collections"], known["rules"]["strangers"]) == ("Stage", [collection], False)
    assert console.fits()


def test_pause_and_restart(console, watch):
    """A camera is paused and resumed; nobody is asked for its picture meanwhile, nor when the view is left."""
    camera = watch(name="Stage", rules={"strangers": False})
    open_camera(console, "Stage")
    assert stream(console, camera)["status"]["viewers"] == 1
    console.press("#camera button", "Pause")
    console.reads("#camera-list .badge", "stopped")
    assert "Paused" in console.one(".veil").text
    assert not console.one("#camera .actions button", "Restart").is_enabled()
    console.press("#camera button", "Resume")
    console.until(lambda: not console.all(".veil") and console.brightness() > 5, "the picture again")
    console.press("#camera button", "Restart")
    console.until(lambda: stream(console, camera)["status"]["reconnects"] > 0, "another connection")
    console.until(lambda: not console.all(".veil"), "the picture after that")
    console.press("nav a", "People")
    console.until(lambda: stream(console, camera)["status"]["viewers"] == 0, "nobody to look")


def test_settings_and_removal(console, watch):
    """Rules are changed while it runs; what the server refuses is told in its sentence; removal asks first."""
    camera = watch(name="Stage", rules={"strangers": False, "regions": [[[0, 0], [1, 0], [1, 1]]]})
    open_camera(console, "Stage")
    console.press("#camera summary", "Settings")
    console.type("#camera .field input[type=number]", "500")
    console.press("#camera form button", "Save")
    console.one("#camera form .notice.bad", "max_fps")
    console.type("#camera .field input[type=number]", "2")
    console.press("#camera .check", "comes back at once")
    console.press("#camera form button", "Save")
    console.one("#camera form .good", "Saved")
    rules = stream(console, camera)["rules"]
    assert (rules["max_fps"], rules["realert_on_return"], rules["strangers"], len(rules["regions"])) == (2, True, False, 1)
    console.press("#camera button", "Remove this camera…")
    console.press("dialog button", "Cancel")
    console.press("#camera button", "Remove this camera…")
    assert "Its events stay." in console.one("dialog").text
    console.press("dialog button", "Remove")
    console.one("#no-camera")
    assert stream(console, camera)["code"] == "not_found"


def test_areas(console, watch):
    """Areas are drawn on a snapshot with the pointer and with the keyboard; one that crosses itself is refused in a sentence."""
    camera = watch(name="Stage", rules={"strangers": False})
    open_camera(console, "Stage")
    console.press("#camera summary", "Areas")
    layer = console.one(".frame svg")
    console.run("arguments[0].scrollIntoView({block: 'center'})", layer)
    for x, y in ((0.1, 0.1), (0.6, 0.1), (0.6, 0.8), (0.1, 0.1)):
        pointer = ActionChains(console.browser)
        pointer.move_to_element_with_offset(
            layer, round((x - 0.5) * layer.size["width"]), round((y - 0.5) * layer.size["height"])
        ).click().perform()
    console.press("#camera .check", "Faces are ignored in new areas")
    layer.send_keys(" ", Keys.RIGHT * 5, " ", Keys.DOWN * 5, " ", Keys.LEFT * 2, " ", Keys.BACKSPACE, Keys.ENTER)
    console.reads(".areas li span:first-child", "Faces count in area 1", "Faces are ignored in area 1")
    console.press("#camera button", "Save the areas")
    console.one("#camera .settings .good", "Saved")
    rules = stream(console, camera)["rules"]
    assert [corner for area in rules["regions"] for corner in area] == [
        pytest.approx(corner, abs=0.01) for corner in ((0.1, 0.1), (0.6, 0.1), (0.6, 0.8))
    ]
    assert rules["ignore"] == [[[0.5, 0.5], [0.6, 0.5], [0.6, 0.6]]]
    layer.send_keys(" ", Keys.RIGHT * 5, Keys.DOWN * 5, " ", Keys.LEFT * 5, " ", Keys.RIGHT * 5, Keys.UP * 5, " ", Keys.ENTER)
    console.press("#camera button", "Save the areas")
    console.one("#camera .settings .notice.bad", "crosses itself")
    console.press(".areas button", "Delete")
    console.reads(".areas li span:first-child", "Faces are ignored in area 1", "Faces are ignored in area 2")


def test_a_camera_that_is_away(console, watch, stage):
    """A camera that cannot be reached says why, wherever it is shown; its name stays text; one that comes back moves again."""
    camera = watch(name=HOSTILE, rules={"strangers": False})
    open_camera(console, HOSTILE)
    stage.end()
    console.until(lambda: set(console.texts(".badge")) & {"stalled", "backing off"}, "the loss")
    reason = console.until(lambda: console.texts("#camera header p"), "the reason")
    assert reason[0].endswith(".")
    assert console.one("#cameras-told").text == "1 camera, 1 not running."
    assert console.run("return document.querySelectorAll('[onerror]').length") == 0
    stage.begin()
    httpx.post(f"{console.address}/v1/streams/{camera}/restart").raise_for_status()
    console.reads(".badge", "running", "running")
    assert console.browser.title == "Cameras · face_server"

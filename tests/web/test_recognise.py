"""The console's first view: photos, the faces in them, and their names."""

from __future__ import annotations

import base64
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys


@pytest.fixture
def scenes(shared: Path) -> Path:
    """Photos with several faces."""
    return shared / "data/photos/scenes"


@pytest.fixture
def pictures(shared: Path) -> Iterator[str]:
    """The address of another server, which serves the photos."""
    handler = functools.partial(QuietHandler, directory=str(shared / "data/photos"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without telling."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_first_minute(console, scenes):
    """An empty gallery says what to do; a face that is given a name has it in the next photo, strangers stay unknown."""
    assert "Remember as…" in console.texts(".step")[1]
    console.open_photo(scenes / "two_people.jpg")
    console.reads(".face h3 .name", "Unknown", "Unknown")
    console.press(".face button", "Remember as…")
    console.type(".remember input", "Barack")
    console.press(".remember button", "Remember")
    console.reads(".face h3 .name", "Barack", "Unknown")
    console.reads("#people-count", "1")
    assert console.one("#summary").text == "2 faces: Barack, 1 unknown."
    console.open_photo(scenes / "obama1.jpg")
    console.reads(".face h3 .name", "Barack")
    console.open_photo(scenes / "friends_six_faces.jpg")
    console.reads(".face h3 .name", *["Unknown"] * 6)


def test_every_face_of_a_group_can_be_remembered(console, scenes):
    """A face is cut out of the photo so that the neighbours, who are near, are not in the template."""
    console.open_photo(scenes / "multiface.jpg")
    for index in range(6):
        # The last one looks a little like the second.
        console.press(f".face:nth-child({index + 1}) button", "Remember as…" if index < 5 else "Somebody else…")
        console.type(".remember input", f"Friend {index}")
        console.press(".remember button", "Remember")
        console.reads(f".face:nth-child({index + 1}) h3 .name", f"Friend {index}")
    console.open_photo(scenes / "multiface.jpg")
    console.reads(".face h3 .name", *(f"Friend {index}" for index in range(6)))


def test_boxes_lead_to_the_list(console, enroll, scenes):
    """Each box names its face for screen readers, lies on the face, and moves the keyboard to its entry in the list."""
    enroll("Obama", "obama/obama.jpg", "obama/obama2.jpg")
    enroll("Biden", "biden/biden.jpg")
    console.open_photo(scenes / "obama_and_biden.jpg")
    labels = [box.get_attribute("aria-label") for box in console.all(".box")]
    assert [label.split(",")[0] for label in labels] == ["Face 1: Biden", "Face 2: Obama", "Face 3: unknown"]
    photo, box = console.one(".frame img").rect, console.all(".box")[1].rect
    assert photo["width"] / photo["height"] == pytest.approx(2000 / 1428, rel=0.01)
    assert 0.57 < (box["x"] - photo["x"]) / photo["width"] < 0.60
    assert 0.24 < (box["y"] - photo["y"]) / photo["height"] < 0.27
    console.all(".box")[1].send_keys(Keys.ENTER)
    assert console.run("return document.activeElement.textContent") == "2Obama"
    assert "Match: " in console.texts(".face")[1]
    assert "about 1 % of strangers" in console.one("#rule").text
    console.press(".face summary", "Good enough to remember.")
    assert re.fullmatch(
        r"Size\n\d+ px\nSharpness\n0\.\d\d\nBrightness\n0\.\d\d\nTurn, nod, tilt\n.*°\nDetection score\n0\.\d\d", console.one("dl").text
    )


def test_a_known_name_asks_who_it_is(console, enroll, scenes):
    """Names are not unique: the face goes to the person chosen, never silently to a namesake."""
    enroll("Sam", "obama/obama.jpg")
    console.open_photo(scenes / "two_people.jpg")
    console.press(".face button", "Remember as…")
    console.type(".remember input", "Sam")
    console.press(".remember button", "Remember")
    console.one(".remember select", "A new person of this name").send_keys("A new")
    assert console.one("#people-count").text == "1"
    console.press(".remember button", "Remember")
    console.reads("#people-count", "2")
    console.reads(".face h3 .name", "Sam", "Sam")


def test_a_refusal_is_told_and_can_be_overridden(console, enroll, scenes, tmp_path):
    """The server's sentence is shown beside the face; "Remember anyway" takes the picture in spite of it."""
    enroll("Obama", "obama/obama.jpg")
    tiny = tmp_path / "tiny.png"
    photo = cv2.imread(str(scenes / "two_people.jpg"))
    cv2.imwrite(str(tiny), cv2.resize(photo, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA))
    console.open_photo(tiny)
    assert "too small" in console.texts(".face")[1]
    console.press(".face:nth-child(2) button", "Remember as…")
    console.type(".remember input", "Joe")
    console.press(".remember button", "Remember")
    assert "The face is too small" in console.one(".remember .notice").text
    console.press(".notice button", "Remember anyway")
    console.reads(".face:nth-child(2) h3 .name", "Joe")


def test_a_match_can_be_added_to_the_person(console, enroll, scenes):
    """Another picture of a person who was recognised becomes a template at a press."""
    enroll("Biden", "biden/biden.jpg")
    console.open_photo(scenes / "obama_and_biden.jpg")
    before = float(console.all(".candidates .value")[0].text)
    console.press(".face button", "Add template")
    console.until(lambda: float(console.all(".candidates .value")[0].text) > max(before, 0.9), "a nearer template")


@pytest.mark.parametrize("kind", ["tiff", "exif", "gif"])
def test_boxes_fit_pictures_that_browsers_show_otherwise(console, scenes, tmp_path, kind):
    """TIFF, which browsers cannot draw, and photos that are stored turned: the box lies where the upright face is."""
    upright = cv2.imread(str(scenes / "obama1.jpg"))
    path = tmp_path / f"photo.{'jpg' if kind == 'exif' else kind}"
    stored = np.rot90(upright) if kind == "exif" else upright
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "exif" else 1
    Image.fromarray(stored[:, :, ::-1]).save(path, exif=exif)
    console.open_photo(scenes / "obama1.jpg")
    expected = relative(console)
    console.open_photo(path)
    assert relative(console) == pytest.approx(expected, abs=0.02)


def relative(page):
    """Where the only box lies in the photo, 0..1."""
    photo, box = page.one(".frame img").rect, page.one(".box").rect
    return [
        (box["x"] - photo["x"]) / photo["width"],
        (box["y"] - photo["y"]) / photo["height"],
        box["width"] / photo["width"],
        box["height"] / photo["height"],
    ]


def test_a_photo_by_its_address(console, pictures):
    """The server fetches it, so the page needs to reach nobody else; it is shown and its faces can be remembered."""
    console.type("#address", f"{pictures}/scenes/two_people.jpg")
    console.press("#open button", "Open")
    console.one("#summary", "2 faces: 2 unknown.")
    assert console.run("return document.querySelector('.frame img').naturalWidth") == 1126
    console.press(".face button", "Remember as…")
    console.type(".remember input", "Barack")
    console.press(".remember button", "Remember")
    console.reads(".face h3 .name", "Barack", "Unknown")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("http://10.0.0.1/photo.jpg", "public"), ("http://169.254.169.254/latest/meta-data", "public"), ("ftp://example.org/x", "http")],
)
def test_a_forbidden_address_is_told(console, url, sentence):
    """Addresses inside the server's network are refused here as in the API, in one sentence."""
    console.type("#address", url)
    console.press("#open button", "Open")
    assert sentence in console.one(".faces .notice").text
    console.one(".drop", "Drop a photo here")


def test_what_is_no_photo_is_told(console, tmp_path):
    """The server's sentence says what is wrong with the file."""
    text = tmp_path / "notes.jpg"
    text.write_text("these are notes")
    console.choose_files("#file", text)
    assert "not a picture in a supported format" in console.one(".faces .notice").text


def test_a_photo_without_faces(console, tmp_path):
    """Nobody there is an answer, with advice."""
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((300, 400, 3), 128, np.uint8))
    console.open_photo(tmp_path / "grey.png")
    assert console.one("#summary").text == "No face found."
    assert "Find small faces" in console.one(".step").text


def test_dropped_and_pasted(console, scenes):
    """Photos come by dropping and pasting too."""
    script = """
      const [name, text] = arguments;
      const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
      const event = name === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
      document.getElementById("stage").dispatchEvent(event);
      return event.defaultPrevented;
    """
    photo = base64.b64encode((scenes / "two_people.jpg").read_bytes()).decode()
    assert console.run(script, "drop", photo)
    console.one("#summary", "2 faces")
    other = base64.b64encode((scenes / "obama1.jpg").read_bytes()).decode()
    console.run(script, "paste", other)
    console.one("#summary", "1 face:")


def test_the_picture_route_refuses_bad_requests(address):
    """What serves the page with pictures has the bounds and sentences of the API."""
    route = f"{address}/console/picture"
    assert httpx.post(route, json={"url": 5}).json()["field"] == "url"
    assert httpx.post(route, json={"address": "http://x"}).status_code == 422
    assert httpx.post(route, content=b"no picture", headers={"content-type": "image/jpeg"}).json()["code"] == "invalid_image"
    assert httpx.post(route, content=b"").status_code == 422

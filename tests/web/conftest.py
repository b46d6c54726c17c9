"""A real browser without a network, and the server that it visits."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from face_server.video.demo_camera import DemoCamera

# Nothing but the server itself resolves: whatever a page loads from elsewhere fails and is logged.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1360,900",
)
WAIT_S = 30

# A refusal of the API is part of what a test does; the browser notes it as a failed load. 503 is that of cameras that are away.
REFUSAL = re.compile(r"/(v1|console)/\S* - Failed to load resource: the server responded with a status of (4\d\d|503)")


class Page:
    """What a visitor sees and does, with waiting built in."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self.browser = browser
        self.address = address

    def visit(self, path: str = "/") -> None:
        """Load a page of the server afresh."""
        self.leave()
        self.browser.get(self.address + path)

    def leave(self) -> None:
        """Close the page: it holds no connection any more."""
        self.browser.get("about:blank")

    def all(self, css: str, text: str = "") -> list[WebElement]:
        """The visible elements with ``text`` in them, as they are now."""
        return [one for one in self.browser.find_elements(By.CSS_SELECTOR, css) if one.is_displayed() and text in one.text]

    def texts(self, css: str) -> list[str]:
        """The texts of the visible elements, as they are now."""
        return [one.text for one in self.all(css)]

    def one(self, css: str, text: str = "") -> WebElement:
        """The first visible element with ``text`` in it; waits for it."""
        return self.until(lambda: self.all(css, text), f"{css} with {text!r}")[0]

    def press(self, css: str, text: str = "") -> None:
        """Press a button or follow a link as soon as it is there and enabled."""

        def push() -> bool:
            button = next((one for one in self.all(css, text) if one.is_enabled()), None)
            if button is not None:
                self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
                try:
                    button.click()
                except ElementClickInterceptedException:
                    # It was moved by what was drawn meanwhile; one that stays covered is never pressed.
                    return False
            return button is not None

        self.until(push, f"{css} with {text!r} to press")

    def reads(self, css: str, *expected: str) -> None:
        """Wait until the texts of the visible elements are these."""
        self.until(lambda: self.texts(css) == list(expected), f"{css} to read {expected}")

    def type(self, css: str, text: str) -> None:
        """Replace what is in a field."""
        field = self.one(css)
        field.clear()
        field.send_keys(text)

    def choose_files(self, css: str, *paths: Path) -> None:
        """Choose files as in the system's dialog. Their field need not be visible."""
        find = self.browser.find_elements
        self.until(lambda: find(By.CSS_SELECTOR, css), css)[0].send_keys("\n".join(str(path) for path in paths))

    def open_photo(self, path: Path) -> None:
        """Open a photo in the first view and wait for its analysis."""
        self.press("nav a", "Recognise")
        self.browser.execute_script("document.getElementById('summary').textContent = ''")
        self.choose_files("#file", path)
        self.until(lambda: re.match(r"\d+ face|No face", self.one("#summary").text), "the analysis")

    def use(self, collection: str) -> None:
        """Choose a collection in the page's head."""
        self.until(lambda: collection in self.one("#collection").text, f"the collection {collection}")
        Select(self.one("#collection")).select_by_value(collection)

    def fits(self) -> bool:
        """Whether nothing sticks out sideways on the narrowest phones."""
        size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            return bool(self.run("return document.documentElement.scrollWidth <= innerWidth"))
        finally:
            self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.browser.execute_script(script, *arguments)

    def brightness(self) -> float:
        """How bright the moving picture of a camera is now, 0 to 255; 0 before the first."""
        script = """const canvas = document.querySelector(".screen canvas");
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.reduce((sum, value, at) => (at % 4 === 3 ? sum : sum + value), 0) / (data.length * 0.75);"""
        return float(self.run(script))

    def complaints(self) -> list[str]:
        """Failed loads, violated policies and exceptions since the last call, without refusals of the API."""
        messages = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in messages if not REFUSAL.search(message)]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until the condition holds; its value."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except WebDriverException as error:
                # Elements may be replaced while they are looked at; the driver has two names for that.
                if not isinstance(error, StaleElementReferenceException) and "does not belong to the document" not in str(error.msg):
                    raise
            time.sleep(0.05)
        pytest.fail(f"waited {WAIT_S} s for {what}; complaints: {self.complaints()}; the page reads:\n{self.texts('body')}")


class Stage:
    """A camera made of a video file, in a thread of its own."""

    def __init__(self, file: Path) -> None:
        self._camera = DemoCamera(file)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return self._camera.url

    def begin(self) -> None:
        """Show the file from its beginning."""
        asyncio.run_coroutine_threadsafe(self._camera.start(), self._loop).result(WAIT_S)

    def end(self) -> None:
        """Go away."""
        asyncio.run_coroutine_threadsafe(self._camera.stop(), self._loop).result(WAIT_S)

    def __enter__(self) -> Self:
        self._thread.start()
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium with an empty profile that reaches nothing but 127.0.0.1."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver)) as opened:
        opened.set_page_load_timeout(WAIT_S)
        yield opened


@pytest.fixture(scope="session")
def serve(face_server: Any) -> Callable[..., Any]:
    """A context that runs ``face-server serve`` over a data folder on a free port and gives its address."""

    @contextlib.contextmanager
    def serving(data: Path, **variables: str) -> Iterator[str]:
        line, environment = face_server.line("serve", "--port", "0", "--data", data), face_server.environment(**variables)
        log = (data / "log.txt").open("w+")
        with log, subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
            assert process.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            try:
                if address is None:
                    pytest.fail(f"the server did not start: {(data / 'log.txt').read_text()}")
                yield address.group()
            finally:
                process.kill()
        assert "Traceback" not in (data / "log.txt").read_text()

    return serving


@pytest.fixture(scope="session")
def address(serve: Callable[..., Any], make_data: Callable[[], Path]) -> Iterator[str]:
    """A server for all tests here, each of which has a collection of its own. It may fetch pictures from 127.0.0.1."""
    with serve(make_data(), FACE_SERVER_FETCH__ALLOWED_HOSTS="127.0.0.1") as address:
        yield address


@pytest.fixture
def collection(address: str, request: pytest.FixtureRequest) -> str:
    """An empty collection, named after the test."""
    name = re.sub(r"\W", "-", request.node.name)[:64]
    httpx.put(f"{address}/v1/collections/{name}").raise_for_status()
    return name


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Page]:
    """The browser, about to visit. Afterwards it must have had nothing to complain about."""
    page = Page(browser, address)
    page.complaints()
    yield page
    assert page.complaints() == []


@pytest.fixture
def console(page: Page, collection: str) -> Page:
    """The console, with an empty collection chosen."""
    page.visit("/")
    page.use(collection)
    page.reads("#people-count", "0")
    return page


@pytest.fixture
def enroll(address: str, collection: str, shared: Path) -> Callable[..., str]:
    """Enrols somebody by photos of a folder in photos/people and returns the id."""

    def enrolled(name: str, *photos: str) -> str:
        files = [("files", (shared / "data/photos/people" / photo).read_bytes()) for photo in photos]
        reply = httpx.post(f"{address}/v1/collections/{collection}/identities", data={"name": name, "override": "true"}, files=files)
        assert reply.status_code == 201, reply.text
        identity: str = reply.json()["identity"]["id"]
        return identity

    return enrolled


@pytest.fixture
def stage(videos: Path) -> Iterator[Stage]:
    """A camera that shows the stage in a loop: three known people, from the second second on, and three others after the seventh."""
    with Stage(videos / "stage_360p.mp4") as camera:
        yield camera


@pytest.fixture
def watch(address: str, collection: str, stage: Stage) -> Iterator[Callable[..., str]]:
    """Registers a camera for the people of ``collection``, the stage unless told otherwise, and returns its id.

    Afterwards every camera and every stranger of the server is gone.
    """

    def watched(**settings: Any) -> str:
        reply = httpx.post(f"{address}/v1/streams", json={"url": stage.url, "collections": [collection], **settings})
        assert reply.status_code == 201, reply.text
        stream: str = reply.json()["id"]
        return stream

    yield watched
    for kind in ("streams", "strangers"):
        for one in httpx.get(f"{address}/v1/{kind}").json()[kind]:
            httpx.delete(f"{address}/v1/{kind}/{one['id']}").raise_for_status()

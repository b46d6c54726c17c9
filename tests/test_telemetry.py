"""Logs tell what happened and nothing that must stay secret."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest

from face_server.telemetry import Seldom, configure_logging, redact, request_id


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def-123", "abc.def-123"),
        ("x-api-key: fsk_0123456789", "fsk_0123456789"),
        ('{"password": "hunter2"}', "hunter2"),
        ("token=abcdef&x=1", "abcdef"),
        ("opening rtsp://user:pass@10.0.0.1/stream?key=1", "pass"),
        ("fetching https://example.org/a.jpg?signature=xyz", "signature"),
        (f"picture {base64.b64encode(bytes(300)).decode()}", "AAAAAAAAAAAAAAAA"),
    ],
)
def test_redaction(text: str, secret: str) -> None:
    """Credentials, addresses and long base64 do not survive."""
    assert secret in text
    assert secret not in redact(text)
    assert "***" in redact(text)


def test_harmless_text_survives() -> None:
    """Ordinary log lines stay as they are."""
    line = "POST /v1/extract 200 12.3 ms"
    assert redact(line) == line


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines(form: str) -> None:
    """A line has level, logger, request id and message; an exception's text is redacted too."""
    stream = io.StringIO()
    configure_logging("info", "json" if form == "json" else "text", stream)
    token = request_id.set("req-1")
    try:
        int("password=hunter2")
    except ValueError:
        logging.getLogger("face_server.test").exception("it failed", extra={"fields": {"status": 500}})
    finally:
        request_id.reset(token)
    logging.getLogger("face_server.test").debug("not shown")
    written = stream.getvalue()
    assert "hunter2" not in written
    for word in ("face_server.test", "req-1", "it failed", "ValueError"):
        assert word in written
    assert "not shown" not in written
    if form == "json":
        line = json.loads(written)
        assert (line["level"], line["status"], line["request_id"]) == ("error", 500, "req-1")


def test_access_logs_of_the_server_are_silent() -> None:
    """The server's own access log, which prints query strings, does not reach our handlers."""
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    logging.getLogger("uvicorn.access").info("GET /v1/x?secret=1")
    logging.getLogger("uvicorn.error").info("started")
    assert "secret" not in stream.getvalue()
    assert "started" in stream.getvalue()


def test_the_same_message_is_logged_seldom() -> None:
    """A message is due at first and when its time is over; another one is due at once; what is over is forgotten."""
    seldom = Seldom(10.0)
    told = [("away", 0.0), ("away", 9.9), ("slow", 9.9), ("away", 10.0), ("away", 11.0)]
    due = [seldom.is_due(message, now_s) for message, now_s in told]
    assert due == [True, False, True, True, False]
    for number in range(1000):
        seldom.is_due(f"call {number} failed", 20.0 + number)
    assert len(seldom._logged_s) <= 11

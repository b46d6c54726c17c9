"""The documentation in a browser that reaches nothing but the server."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize(("route", "expected"), [("system/info", "sface"), ("faces/detect", '"faces"')])
def test_try_it_out_answers(page, route, expected):
    """Swagger UI renders, and sending an operation's example as it stands gets a result."""
    page.visit(f"/docs#/{route}")
    page.press(".opblock.is-open .execute")
    page.until(lambda: page.all(".live-responses-table .response-col_status", "200"), "a result")
    assert expected in page.one(".live-responses-table .highlight-code").text


def test_every_operation_is_listed(page):
    """Both pages show every operation of the document."""
    paths = httpx.get(f"{page.address}/openapi.json").json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    page.visit("/docs")
    page.until(lambda: len(page.all(".opblock")) == operations, f"{operations} operations in Swagger UI")
    page.visit("/redoc")
    page.one("h1", "face_server")
    listed = "return document.querySelectorAll('[data-section-id*=operation]').length"
    page.until(lambda: page.run(listed) >= operations, f"{operations} operations in Redoc")

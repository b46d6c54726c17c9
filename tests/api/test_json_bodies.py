"""Large JSON bodies mean what any JSON parser says they mean."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from face_server.api.json_bodies import parse_json

LONG = "A" * 600_000


@pytest.mark.parametrize(
    "value",
    [
        {"images": [LONG, LONG[:-1], "short"], "min_score": 0.5, "name": 'a "quoted\\" name'},
        {"a": 'quote \\" and \\\\', "images": [LONG], "b": LONG},
        {"images": [LONG + "\n" + LONG, LONG + '"' + LONG, LONG + "é" + LONG]},
        {"nested": {"list": [[LONG * 3], {"x": LONG}]}, "n": None},
        {LONG: 1, "z": [LONG] * 3},
        [1.5] * 400_000,
        ["\\", LONG * 3, '"', "\\\\", LONG],
        {"control": LONG * 3 + "\t"},
    ],
)
@pytest.mark.parametrize("spaces", [None, 1])
def test_same_value(value: Any, spaces: int | None) -> None:
    """Long strings with or without escapes, as items, members and names, come out as they went in."""
    data = json.dumps(value, indent=spaces, ensure_ascii=False).encode()
    assert len(data) > 1 << 20
    assert parse_json(data) == value


@pytest.mark.parametrize("cut", [1, 2, 100, 500_000])
def test_malformed(cut: int) -> None:
    """A large body that breaks off is no JSON."""
    data = json.dumps({"images": [LONG] * 4}).encode()
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(data[:-cut])

"""Specs and events as text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.events import Event, EventKind, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.streams import (
    FramePolicy,
    Mode,
    Polygon,
    Schedule,
    SinkKind,
    SinkSpec,
    StreamRules,
    StreamSpec,
    Transport,
    Window,
)
from face_server.errors import ConfigurationError, InvalidInput, Unavailable
from face_server.journal.records import read_event, read_spec, write_event, write_spec
from face_server.journal.sealing import Sealer

SEALER = Sealer.from_key(bytes(32))
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SHARE = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Corners in order."""
    (x1, x2), (y1, y2) = (sorted(draw(st.tuples(NUMBER, NUMBER))) for _ in range(2))
    return Box(x1, y1, x2, y2)


WHO = st.builds(Who, TEXT, NUMBER, NUMBER, TEXT, TEXT, TEXT)
FACES = st.builds(SceneFace, st.integers(0, 2**53), boxes(), SHARE, st.none() | WHO, st.booleans(), TEXT)
EVENTS = st.builds(
    Event,
    id=TEXT,
    kind=st.sampled_from(EventKind),
    stream_id=TEXT,
    at=NUMBER,
    started_at=NUMBER,
    ended_at=NUMBER,
    track=st.integers(0, 2**53),
    who=st.none() | WHO,
    box=st.none() | boxes(),
    frame_width=st.integers(0, 10_000),
    frame_height=st.integers(0, 10_000),
    picture=TEXT,
    frame_picture=TEXT,
    faces=st.lists(FACES, max_size=3).map(tuple),
    message=TEXT,
    cursor=st.integers(1, 2**62),
)

UPPER, LOWER = st.floats(0, 0.4), st.floats(0.5, 1)
TRIANGLES = st.builds(lambda left, right, x, y: Polygon(((0.0, left), (1.0, right), (x, y))), UPPER, UPPER, SHARE, LOWER)
WINDOWS = st.builds(Window, st.frozensets(st.integers(0, 6), min_size=1), st.times(), st.times())
SCHEDULES = st.builds(Schedule, st.lists(WINDOWS, max_size=3).map(tuple), st.sampled_from(["UTC", "Europe/Paris"]))
RULES = st.builds(
    StreamRules,
    mode=st.sampled_from(Mode),
    frames=st.sampled_from(FramePolicy),
    every_nth=st.integers(1, 1000),
    max_fps=st.floats(0, 120),
    min_score=st.none() | SHARE,
    regions=st.lists(TRIANGLES, max_size=3).map(tuple),
    ignore=st.lists(TRIANGLES, max_size=3).map(tuple),
    threshold=st.none() | SHARE,
    margin=st.none() | SHARE,
    realert_on_return=st.booleans(),
    schedule=st.none() | SCHEDULES,
    publish=st.booleans(),
)
SINKS = st.builds(SinkSpec, st.sampled_from(SinkKind), TEXT, TEXT, TEXT, st.booleans(), st.lists(st.sampled_from(EventKind)).map(tuple))
SPECS = st.builds(
    StreamSpec,
    id=st.from_regex(r"[a-z安][a-z安 ]{0,19}", fullmatch=True),
    url=TEXT,
    name=TEXT,
    detail_url=TEXT,
    transport=st.sampled_from(Transport),
    collections=st.lists(TEXT, max_size=3).map(tuple),
    rules=RULES,
    sinks=st.lists(SINKS, max_size=3).map(tuple),
    enabled=st.booleans(),
    created_at=NUMBER,
)

FULL = StreamSpec(
    "door",
    "rtsp://admin:pa55word@10.1.2.3/main",
    detail_url="rtsp://admin:pa55word@10.1.2.3/large",
    rules=StreamRules(schedule=Schedule((Window(frozenset({0, 6}), time(22), time(6)),), "Europe/Paris")),
    sinks=(
        SinkSpec(SinkKind.WEBHOOK, "https://hooks.example/t0ken", secret="h4sh", kinds=(EventKind.PERSON_SEEN,)),
        SinkSpec(SinkKind.MQTT, "mqtt://user:pa55word@10.1.2.4", "home"),
    ),
)
SEEN = Event("e1", EventKind.PERSON_SEEN, "door", 1.0, 0.5, 1.0, who=Who("Ann", 0.7, 0.4, "staff", "ann"), box=Box(1, 2, 3, 4))


@given(EVENTS)
def test_events_come_back(event: Event) -> None:
    """Equal in every field, with the cursor given."""
    assert read_event(write_event(event), event.cursor) == event


@given(SPECS)
def test_specs_come_back(spec: StreamSpec) -> None:
    """Equal in every field, secrets too."""
    back = read_spec(write_spec(spec, SEALER), SEALER)
    assert back == spec
    assert hash(back) == hash(spec)


def test_addresses_and_secrets_are_sealed() -> None:
    """Nothing of them is in the record; what is no secret is."""
    record = write_spec(FULL, SEALER)
    for secret in ("pa55word", "admin", "10.1.2", "rtsp", "hooks", "t0ken", "h4sh", "user"):
        assert secret not in record
    for plain in ("door", "webhook", "home", "Europe/Paris"):
        assert plain in record


def test_a_sealed_address_belongs_to_its_place() -> None:
    """Moved to another stream or another field of the same one it does not open."""
    raw = json.loads(write_spec(FULL, SEALER))
    for changed in (
        raw | {"id": "gate"},
        raw | {"url": raw["detail_url"]},
        raw | {"sinks": raw["sinks"][::-1]},
        raw | {"url": raw["sinks"][0]["secret"]},
    ):
        with pytest.raises(ConfigurationError):
            read_spec(json.dumps(changed), SEALER)


def test_older_records_are_read() -> None:
    """What a record does not say takes its default; what nobody knows any more is passed over; empty stays empty."""
    spec = StreamSpec("door", "rtsp://cam", rules=StreamRules(max_fps=2))
    raw = json.loads(write_spec(spec, SEALER))
    old = {"id": "door", "url": raw["url"], "rules": {"max_fps": 2, "sensitivity": 11}, "colour": "red"}
    assert read_spec(json.dumps(old), SEALER) == spec
    brief = {"id": "e", "kind": "stream_lost", "stream_id": "door", "at": 1, "started_at": 1, "ended_at": 1, "mood": "bad"}
    assert read_event(json.dumps(brief), 4) == Event("e", EventKind.STREAM_LOST, "door", 1, 1, 1, cursor=4)


def test_newer_records_are_refused() -> None:
    """They may mean something else."""
    raw = json.loads(write_event(SEEN))
    with pytest.raises(ConfigurationError, match="newer"):
        read_event(json.dumps(raw | {"version": 2}), 1)


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "dance"},
        {"box": {"x1": 5, "y1": 0, "x2": 1, "y2": 1}},
        {"who": {"name": "Ann"}},
        {"who": 7},
        {"faces": [{"track": 1}]},
        {"faces": 3},
    ],
)
def test_damaged_records_say_so(damage: dict[str, Any]) -> None:
    """Whatever does not make sense is one error that names the record."""
    raw = json.loads(write_event(SEEN))
    with pytest.raises(Unavailable, match="event 9") as caught:
        read_event(json.dumps(raw | damage), 9)
    assert caught.value.code == "storage_corrupt"


@pytest.mark.parametrize("record", ["", "{", "[]", "null", "7", "{}"])
def test_what_is_no_record_says_so(record: str) -> None:
    """Neither for events nor for specs."""
    with pytest.raises(Unavailable):
        read_event(record, 1)
    with pytest.raises(Unavailable):
        read_spec(record, SEALER)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("nan")])
def test_numbers_are_finite(number: float) -> None:
    """Others are refused when writing: nobody could read them."""
    with pytest.raises(InvalidInput, match="not finite"):
        write_event(replace(SEEN, at=number))


def test_numbers_of_numpy_are_numbers() -> None:
    """An event is not lost because a network's number came along."""
    who = Who("Ann", np.float32(0.5), np.float64(0.25))  # type: ignore[arg-type]
    odd = replace(SEEN, who=who, track=np.int64(3))  # type: ignore[arg-type]
    assert read_event(write_event(odd), 0) == replace(SEEN, who=Who("Ann", 0.5, 0.25), track=3)

"""Streams between their JSON form and the values of the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import time
from typing import Any

from pydantic import ValidationError

from face_server.api.problems import invalid
from face_server.api.rendering import timestamp
from face_server.api.schemas.streams import (
    RulesBody,
    ScheduleBody,
    SinkBody,
    SinkShown,
    StatusBody,
    StreamBody,
    StreamPatch,
    StreamSettings,
)
from face_server.domain.events import EventKind
from face_server.domain.streams import (
    FramePolicy,
    Mode,
    Polygon,
    Schedule,
    SinkKind,
    SinkSpec,
    StreamRules,
    StreamSpec,
    StreamStatus,
    Transport,
    Window,
)
from face_server.errors import InvalidInput

_POLYGONS = ("regions", "ignore")


def spec_of(stream_id: str, body: StreamSettings, created_at: float, collection: str) -> StreamSpec:
    """The spec that a request describes; ``collection`` where it names none. Raises InvalidInput that names the field."""
    return StreamSpec(
        id=stream_id,
        url=body.url,
        name=body.name,
        detail_url=body.detail_url,
        transport=Transport(body.transport),
        collections=(collection,) if body.collections is None else _each_once(body.collections),
        rules=rules_of(body.rules),
        sinks=tuple(sink_of(sink) for sink in body.sinks),
        enabled=body.enabled,
        created_at=created_at,
    )


def changed(spec: StreamSpec, patch: StreamPatch) -> StreamSpec:
    """``spec`` with the members that the patch names. Raises InvalidInput that names the field."""
    members: dict[str, Any] = {}
    for name in patch.model_fields_set:
        value = getattr(patch, name)
        if value is None:
            raise InvalidInput(f"{name} cannot be null; leave it out to keep it", field=name)
        members[name] = value
    if "transport" in members:
        members["transport"] = Transport(members["transport"])
    if "collections" in members:
        members["collections"] = _each_once(members["collections"])
    if "sinks" in members:
        members["sinks"] = tuple(sink_of(sink) for sink in members["sinks"])
    if "rules" in members:
        members["rules"] = changed_rules(spec.rules, members["rules"].model_dump())
    return replace(spec, **members)


def changed_rules(rules: StreamRules, members: Mapping[str, Any]) -> StreamRules:
    """``rules`` with some members given in their JSON form. Raises InvalidInput that names the field."""
    try:
        body = RulesBody.model_validate({**rules_body(rules).model_dump(), **members}, strict=True)
    except ValidationError as error:
        raise invalid(error, place="rules") from error
    return rules_of(body)


def rules_of(body: RulesBody) -> StreamRules:
    """The rules of their JSON form. Raises InvalidInput that names the field."""
    members = dict(body)
    members["mode"] = Mode(body.mode)
    members["frames"] = FramePolicy(body.frames)
    members["schedule"] = _schedule(body.schedule) if body.schedule else None
    for name in _POLYGONS:
        members[name] = tuple(_polygon(points, f"rules.{name}[{index}]") for index, points in enumerate(members[name]))
    return StreamRules(**members)


def rules_body(rules: StreamRules) -> RulesBody:
    """The JSON form of rules."""
    members: dict[str, Any] = {name: getattr(rules, name) for name in RulesBody.model_fields}
    for name in _POLYGONS:
        members[name] = [[list(point) for point in polygon.points] for polygon in members[name]]
    if rules.schedule:
        windows = [_window_body(window) for window in rules.schedule.windows]
        members["schedule"] = {"windows": windows, "timezone": rules.schedule.timezone}
    return RulesBody.model_validate(members)


def sink_of(body: SinkBody) -> SinkSpec:
    """The sink of its JSON form."""
    kinds = tuple(EventKind(kind) for kind in body.events)
    return SinkSpec(SinkKind(body.kind), body.address, body.topic, body.secret, body.tls, kinds)


def stream_body(spec: StreamSpec, status: StreamStatus) -> StreamBody:
    """A stream for people. ``spec`` has been masked before: no address in it holds a credential."""
    return StreamBody(
        id=spec.id,
        name=spec.name,
        url=spec.url,
        detail_url=spec.detail_url,
        transport=spec.transport.value,
        collections=list(spec.collections),
        rules=rules_body(spec.rules),
        sinks=[_sink_shown(sink) for sink in spec.sinks],
        enabled=spec.enabled,
        created_at=timestamp(spec.created_at),
        status=status_body(status),
    )


def status_body(status: StreamStatus) -> StatusBody:
    """The JSON form of a status."""
    members = {name: getattr(status, name) for name in StatusBody.model_fields}
    return StatusBody.model_validate({**members, "state": status.state.value, "since": timestamp(status.since)})


def _each_once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _sink_shown(sink: SinkSpec) -> SinkShown:
    return SinkShown(
        key=sink.key,
        kind=sink.kind.value,
        address=sink.address,
        topic=sink.topic,
        has_secret=bool(sink.secret),
        tls=sink.tls,
        events=[kind.value for kind in sink.kinds],
    )


def _polygon(points: list[list[float]], field: str) -> Polygon:
    try:
        return Polygon(tuple((x, y) for x, y in points))
    except InvalidInput as error:
        raise InvalidInput(f"{field}: {error.message}", code=error.code, field=field) from error


def _window_body(window: Window) -> dict[str, Any]:
    return {"days": sorted(window.days), "begin": f"{window.begin:%H:%M}", "end": f"{window.end:%H:%M}"}


def _schedule(body: ScheduleBody) -> Schedule:
    windows = tuple(
        Window(frozenset(window.days), time.fromisoformat(window.begin), time.fromisoformat(window.end)) for window in body.windows
    )
    return Schedule(windows, body.timezone)

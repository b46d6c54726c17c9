"""The face server's rules of a task, ``frame_rate`` and ``rule_info``, as rules of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from face_server.domain.streams import FramePolicy, Mode, StreamRules
from face_server.errors import InvalidInput

_LARGEST = 1e9


def rules_of(fields: Mapping[str, str], rules: StreamRules) -> StreamRules:
    """``rules`` with what ``frame_rate`` and ``rule_info`` say; numbers may be strings. Raises InvalidInput that names the field."""
    members: dict[str, Any] = {}
    if fields.get("frame_rate", "").strip():
        members["publish_fps"] = float(_number(fields["frame_rate"], "frame_rate"))
    info = _rule_info(fields.get("rule_info", ""))
    if "mode" in info:
        members["mode"] = _mode(info["mode"])
    if "skip_frame_rate" in info:
        members |= _frames(_number(info["skip_frame_rate"], "rule_info.skip_frame_rate"))
    if "add_stranger" in info:
        members["strangers"] = _number(info["add_stranger"], "rule_info.add_stranger") != 0
    if "alert_time" in info:
        members["realert_s"] = float(_number(info["alert_time"], "rule_info.alert_time"))
    return replace(rules, **members)


def _mode(value: object) -> Mode:
    if not isinstance(value, str) or value not in {mode.value for mode in Mode}:
        raise InvalidInput("rule_info.mode must be cpu or gpu", field="rule_info")
    return Mode(value)


def _frames(skip: int) -> dict[str, Any]:
    """0: the newest, 1: every, n: each n-th frame."""
    if skip <= 0:
        return {"frames": FramePolicy.NEWEST, "max_fps": StreamRules().max_fps}
    if skip == 1:
        return {"frames": FramePolicy.EVERY, "max_fps": 0.0}
    return {"frames": FramePolicy.NTH, "every_nth": skip, "max_fps": 0.0}


def _rule_info(text: str) -> dict[str, Any]:
    """The members of ``rule_info``; none for an empty text and for JSON that is no object, as in the original."""
    if not text.strip():
        return {}
    try:
        info = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("rule_info is not valid JSON", field="rule_info") from error
    return info if isinstance(info, dict) else {}


def _number(value: object, field: str) -> int:
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        number = None
    if number is None or not abs(number) <= _LARGEST or not number.is_integer():
        raise InvalidInput(f"{field} must be a whole number", field=field)
    return int(number)

"""``parameters`` of a ``config.pbtxt``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from face_server.errors import ConfigurationError


def whole_number(args: Mapping[str, str], name: str, default: int) -> int:
    """The parameter called ``name``, at least 1. Raises ConfigurationError for anything else."""
    text = _text(args, name)
    if text is None:
        return default
    if not (text.isdecimal() and int(text)):
        raise ConfigurationError(f"the parameter {name} of {args['model_name']} must be a whole number of at least 1, it is {text!r}")
    return int(text)


def word(args: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """The parameter called ``name``, one of ``allowed``; the first of them if it is not set. Raises ConfigurationError for another."""
    text = _text(args, name)
    if text is not None and text not in allowed:
        raise ConfigurationError(f"the parameter {name} of {args['model_name']} must be {' or '.join(allowed)}, it is {text!r}")
    return text or allowed[0]


def _text(args: Mapping[str, str], name: str) -> str | None:
    found = json.loads(args["model_config"]).get("parameters", {}).get(name)
    return None if found is None else str(found["string_value"])

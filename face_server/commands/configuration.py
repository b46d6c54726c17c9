"""`face-server config`: the settings in effect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from face_server.commands.options import Data, Json, load_settings
from face_server.commands.terminal import out, print_json
from face_server.settings import ENV_PREFIX, variables


def config(data: Data = None, as_json: Json = False) -> None:
    """Print the effective settings, secrets masked, in the form of a file of variables."""
    # Dumping writes secret values as asterisks.
    effective = load_settings(data=data).model_dump(mode="json")
    if as_json:
        print_json(effective)
        return
    described = variables()
    for variable, value in _flat(effective, ENV_PREFIX):
        out.print(f"# {described[variable]}", style="dim")
        out.print(f"#{variable}=" if value is None else f"{variable}={_shown(variable, value)}")


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        variable = prefix + name.upper()
        if isinstance(value, dict):
            yield from _flat(value, f"{variable}__")
        else:
            yield variable, value


def _shown(variable: str, value: Any) -> str:
    if isinstance(value, list):
        return (os.pathsep if variable.endswith(("_PATH", "__MEDIA")) else ",").join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)

"""Options that several commands share, and the settings they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from face_server.settings import Settings

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder for everything the service keeps: FACE_SERVER_DATA, or else ./data.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", metavar="NAME", help="Collection to use: FACE_SERVER_COLLECTION, or else `default`.", show_default=False),
]


def load_settings(**overrides: Any) -> Settings:
    """The settings of the environment; options that were given (not None) win."""
    return Settings.load(**{name: value for name, value in overrides.items() if value is not None})

"""Write the parts of the documentation that the code knows best; a test fails when they are stale.

A page marks such a part with ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``; everything between is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from face_server.app import create_app
from face_server.models.catalog import CATALOG, READY_DEFAULTS
from face_server.settings import ENV_PREFIX, Settings

DOCS = Path(__file__).resolve().parent


def settings_tables() -> str:
    """One table of variables for the top level and one for every section."""
    return "\n\n".join(_sections(Settings, ENV_PREFIX, ""))


def models_table() -> str:
    """The catalogue with licences."""
    rows = ["| name | task | family | licence | commercial use | size | comes from |", "|---|---|---|---|---|---|---|"]
    for entry in CATALOG.values():
        name = f"**{entry.name}**" if entry.name in READY_DEFAULTS else entry.name
        use = "yes" if entry.commercial_use else "**no**"
        origin = "fetched by `models pull`" if entry.sources else "your own file"
        rows.append(f"| {name} | {entry.task} | {entry.family} | {entry.licence} | {use} | {entry.size_bytes / 1e6:.1f} MB | {origin} |")
    return "\n".join(rows)


def endpoints_tables() -> str:
    """Every endpoint of the OpenAPI document, grouped by its tag."""
    groups: dict[str, list[str]] = {}
    for path, operations in create_app(Settings()).openapi()["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            described = (operation.get("description") or operation["summary"]).partition("\n\n")[0]
            groups.setdefault(tag, []).append(f"| `{method.upper()} {path}` | {' '.join(described.split())} |")
    return "\n\n".join("\n".join([f"### {tag}", "", "| endpoint | what it does |", "|---|---|", *rows]) for tag, rows in groups.items())


PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "settings": ("configuration.md", settings_tables),
    "catalogue": ("models.md", models_table),
    "endpoints": ("http-api.md", endpoints_tables),
}


def render(name: str) -> tuple[Path, str]:
    """The page that holds the part ``name``, and its text with that part made anew."""
    file_name, make = PARTS[name]
    page = DOCS / file_name
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    if not pattern.search(text):
        raise ValueError(f"{page} has no part marked {begin} … {end}")
    body = make()
    return page, pattern.sub(lambda _: f"{begin}\n{body}\n{end}", text)


def main() -> None:
    """Rewrite every part."""
    for name in PARTS:
        page, text = render(name)
        page.write_text(text, encoding="utf-8")


def _sections(model: type[BaseModel], prefix: str, title: str) -> Iterator[str]:
    rows: list[str] = []
    nested: list[str] = []
    for name, info in model.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            heading = f"## {name.replace('_', ' ').capitalize()}\n\n{(info.annotation.__doc__ or '').strip()}"
            nested.extend(_sections(info.annotation, f"{variable}__", heading))
        else:
            rows.append(f"| `{variable}` | {_default(info)} | {info.description}{_bounds(info)} |")
    table = "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])
    yield f"{title}\n\n{table}" if title else table
    yield from nested


def _default(info: FieldInfo) -> str:
    value: Any = info.get_default(call_default_factory=False)
    if value is None or value in ((), ""):
        return "–"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{value}`"


def _bounds(info: FieldInfo) -> str:
    signs: dict[type, tuple[str, str]] = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    parts = [
        f"{sign} {getattr(bound, attribute)}"
        for kind, (sign, attribute) in signs.items()
        for bound in info.metadata
        if isinstance(bound, kind)
    ]
    choices = [f"`{choice}`" for choice in get_args(info.annotation)] if get_origin(info.annotation) is Literal else []
    parts += [f"one of {', '.join(choices)}"] if choices else []
    return f" ({', '.join(parts)})" if parts else ""


if __name__ == "__main__":
    main()

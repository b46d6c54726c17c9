"""How commands speak: results on stdout, progress and troubles on stderr, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# File and person names may hold brackets: nothing printed is markup.
out = Console(markup=False, highlight=False, soft_wrap=True)
err = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)

SOME_FAILED = 1
"""Exit code when the command ran but some of its items failed."""

UNUSABLE = 2
"""Exit code when the command could not run: usage, settings, missing weights."""


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON; numpy values and dataclasses are allowed in it."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())


def complain(sentence: str) -> None:
    """Print one error on stderr, after the command's name."""
    err.print(f"face-server: {sentence}", style="red")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
    """Print columns as wide as their widest cell, never wrapped: lines stay whole in a pipe. One style a row, if any."""
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    for row, style in zip([header, *rows], ["bold", *(styles or [""] * len(rows))], strict=True):
        out.print("  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip(), style=style)


def progress_bar() -> Progress:
    """A bar on stderr that disappears when done; on anything but a terminal it stays silent."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Result lines go above the bar where both are on the terminal, and stay in stdout where that goes to a file.
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal, redirect_stdout=out.is_terminal)

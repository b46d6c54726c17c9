"""The command `face-server`: which commands there are, and how any of them ends badly."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated

import typer

from face_server import __version__
from face_server.commands import checkup, configuration, demo, enrollment, keys, migration, models, recognition, serving, transfer
from face_server.commands.terminal import UNUSABLE, complain, out
from face_server.errors import FaceServerError

INTERRUPTED = 130

cli = typer.Typer(
    name="face-server",
    help="Find faces, remember people, say who is in a picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

cli.command("serve", short_help="Serve the HTTP API.")(serving.serve)
cli.command("check", short_help="Load everything, test it, find the fastest backend.")(checkup.check)
cli.command("config", short_help="Print the effective settings.")(configuration.config)
cli.add_typer(models.models, name="models")
cli.command("extract", short_help="Find the faces of pictures.")(recognition.extract)
cli.command("enroll", short_help="Enrol a folder of people.")(enrollment.enroll)
cli.command("identify")(recognition.identify)
cli.command("demo", short_help="Make a camera of a video file.")(demo.demo)
cli.command("openapi", short_help="Print the OpenAPI document.")(serving.openapi)
cli.add_typer(keys.keys, name="keys")
cli.command("export", short_help="Write a collection to one file.")(transfer.export_file)
cli.command("import", short_help="Read a collection from a file.")(transfer.import_file)
cli.command("migrate", short_help="Move everything between a data folder and Redis.")(migration.migrate)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"face-server {__version__}")
        raise typer.Exit


@cli.callback()
def _global_options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Find faces, remember people, say who is in a picture."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command (``sys.argv`` by default) and return its exit code; errors are one sentence on stderr."""
    try:
        code = cli(args=list(arguments) if arguments is not None else None, prog_name="face-server", standalone_mode=False)
    except typer.TyperException as error:
        complain(" ".join(error.format_message().replace("Value error, ", "").split()))
        return UNUSABLE
    except FaceServerError as error:
        complain(error.message)
        return UNUSABLE
    except (OSError, sqlite3.Error) as error:
        # The disk is full, the folder is not ours: what no adapter foresaw still ends in a sentence.
        complain(str(error))
        return UNUSABLE
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the installed command."""
    raise SystemExit(run())

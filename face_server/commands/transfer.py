"""`face-server export` and `face-server import`: a collection as one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from face_server.app_state import open_state
from face_server.clock import SystemClock
from face_server.commands.options import CollectionName, Data, Json, load_settings
from face_server.commands.terminal import out, print_json
from face_server.errors import NotFound
from face_server.pipeline.transfer import Clash, ExportReport, ImportReport, Transfer
from face_server.settings import Settings
from face_server.workers import Workers

_THREADS = 2


def export_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write; what was there is replaced at once, when complete.", show_default=False)
    ],
    collection: CollectionName = None,
    crops: Annotated[bool, typer.Option("--crops/--no-crops", help="Whether the aligned crops go along.")] = True,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a collection to one file: vectors, names, metadata, model id. Servers may run meanwhile."""
    settings = load_settings(data=data)
    report = asyncio.run(_export(settings, file, collection or settings.collection, crops=crops))
    if as_json:
        print_json(report)
    else:
        out.print(
            f"{report.identities} people with {report.templates} templates of {report.collection!r} are in {file} ({report.bytes} bytes)"
        )


def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `export` wrote.", exists=True, dir_okay=False, show_default=False)
    ],
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="Where to; the exported name if left out.", show_default=False)
    ] = None,
    clash: Annotated[Clash, typer.Option("--clash", help="What to do where the collection has the same person or template.")] = Clash.FAIL,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Read a collection from a file, checked whole before anything is stored. Servers may run meanwhile."""
    report = asyncio.run(_import(load_settings(data=data), file, collection, clash))
    if as_json:
        print_json(report)
        return
    where = f"{'the new collection' if report.created else 'the collection'} {report.collection!r}"
    out.print(f"{where} gained {report.identities_added} people and {report.templates_added} templates")
    for verb, people, templates in (
        ("skipped", report.identities_skipped, report.templates_skipped),
        ("replaced", report.identities_replaced, report.templates_replaced),
    ):
        if people or templates:
            out.print(f"{verb}: {people} people, {templates} templates")


async def _export(settings: Settings, file: Path, collection: str, *, crops: bool) -> ExportReport:
    if not settings.state.shared and not settings.gallery_file.is_file():
        raise NotFound(f"there is no gallery in {settings.data}", field="data")
    async with _transfer(settings) as transfer:
        return await transfer.export_file(collection, file, crops=crops)


async def _import(settings: Settings, file: Path, collection: str | None, clash: Clash) -> ImportReport:
    async with _transfer(settings) as transfer:
        return await transfer.import_file(file, collection=collection, clash=clash)


@asynccontextmanager
async def _transfer(settings: Settings) -> AsyncIterator[Transfer]:
    """The gallery alone: no network is needed to move embeddings."""
    with Workers(_THREADS) as workers:
        async with open_state(settings, workers, SystemClock()) as state:
            yield Transfer(state.gallery, workers)

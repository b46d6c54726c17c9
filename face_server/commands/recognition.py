"""`face-server extract` and `face-server identify`: what is in picture files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from face_server.api.problems import problem_of
from face_server.api.rendering import Body, FaceForm, face_body, picture_body
from face_server.api.routers.recognition import decision_body
from face_server.api.services import Services
from face_server.app import open_services
from face_server.commands.concurrency import side_by_side
from face_server.commands.described import decision_line, face_line
from face_server.commands.options import CollectionName, Data, Json, load_settings
from face_server.commands.pictures import read_picture
from face_server.commands.terminal import SOME_FAILED, complain, out, print_json, progress_bar
from face_server.domain.ports import AnalysisOptions
from face_server.errors import FaceServerError, InvalidInput, NotFound
from face_server.pipeline.intake import Extraction
from face_server.pipeline.recognition import IdentifyOptions
from face_server.settings import Settings

Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Pictures.", show_default=False)]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What was found in one file, as lines for people and as JSON; ``error`` says why nothing was."""

    path: Path
    lines: tuple[str, ...] = ()
    body: Body | None = None
    error: FaceServerError | None = None


def extract(files: Files, data: Data = None, as_json: Json = False) -> None:
    """Find the faces of pictures: boxes, landmarks, quality and (with --json) embeddings."""
    settings = load_settings(data=data, allow_anonymous=True)
    head, seen = asyncio.run(_extract(settings, files))
    _report(head, seen, as_json=as_json)


def identify(
    files: Files,
    collection: CollectionName = None,
    threshold: Annotated[float | None, typer.Option(min=-1, max=1, help="Instead of the collection's own.", show_default=False)] = None,
    margin: Annotated[float | None, typer.Option(min=0, max=2, help="Instead of the collection's own.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Candidates to report for each face (with --json).")] = 5,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Name every face of pictures, or say unknown."""
    settings = load_settings(data=data, allow_anonymous=True)
    options = IdentifyOptions(limit, threshold, margin)
    head, seen = asyncio.run(_identify(settings, collection or settings.collection, files, options))
    _report(head, seen, as_json=as_json)


async def _extract(settings: Settings, files: Sequence[Path]) -> tuple[Body, list[_Seen]]:
    async with open_services(settings) as services:
        form = FaceForm(services.enrollment.limits, embedding="floats")

        async def look(path: Path) -> _Seen:
            extraction = await _read(services, settings, path)
            if not isinstance(extraction, Extraction):
                return _Seen(path, error=extraction)
            bodies = [await face_body(face, form, services.codec) for face in extraction.faces]
            return _Seen(path, tuple(map(face_line, extraction.faces)), picture_body(extraction, bodies))

        head = {"detector": services.detector.name, "model": str(services.analyzer.model), "embedding_format": "floats"}
        return head, await _all(services, files, look)


async def _identify(settings: Settings, collection: str, files: Sequence[Path], options: IdentifyOptions) -> tuple[Body, list[_Seen]]:
    async with open_services(settings) as services:
        form = FaceForm(services.enrollment.limits)
        stored = await services.gallery.collection(collection)
        threshold = services.recognition.identification_threshold(stored) if options.threshold is None else options.threshold

        async def look(path: Path) -> _Seen:
            extraction = await _read(services, settings, path)
            if not isinstance(extraction, Extraction):
                return _Seen(path, error=extraction)
            decisions = await services.recognition.identify_faces(stored.name, extraction.faces, options)
            pairs = list(zip(extraction.faces, decisions, strict=True))
            bodies = [{**await face_body(face, form, services.codec), **decision_body(decision)} for face, decision in pairs]
            lines = tuple(f"{decision_line(decision)}, {face_line(face)}" for face, decision in pairs)
            return _Seen(path, lines, picture_body(extraction, bodies))

        margin = stored.margin if options.margin is None else options.margin
        head = {"collection": stored.name, "model": str(stored.model), "threshold": threshold, "margin": margin}
        return head, await _all(services, files, look)


async def _read(services: Services, settings: Settings, path: Path) -> Extraction | FaceServerError:
    """The faces of one file, or the error that is this file's own fault."""
    defaults = services.defaults
    try:
        data = await services.workers.run(read_picture, path, settings.images.max_bytes)
    except (InvalidInput, NotFound) as error:
        return error
    (extraction,) = await services.intake.extract(
        [data], AnalysisOptions(defaults.min_score, defaults.max_size_px, max_faces=defaults.max_faces)
    )
    return extraction


async def _all(services: Services, files: Sequence[Path], look: Callable[[Path], Awaitable[_Seen]]) -> list[_Seen]:
    with progress_bar() as bar:
        task = bar.add_task("Looking", total=len(files))
        return await side_by_side(files, look, services.workers.threads, lambda _: bar.advance(task))


def _report(head: Body, seen: Sequence[_Seen], *, as_json: bool) -> None:
    if as_json:
        print_json({**head, "images": [_described(one) for one in seen]})
    for one in seen:
        if one.error is not None:
            complain(f"{one.path}: {one.error.message}")
        elif not as_json:
            out.print(f"{one.path}: {len(one.lines)} face{'' if len(one.lines) == 1 else 's'}", style="bold")
            for line in one.lines:
                out.print(f"  {line}")
    if any(one.error is not None for one in seen):
        raise typer.Exit(SOME_FAILED)


def _described(one: _Seen) -> Body:
    if one.error is not None:
        return {"file": str(one.path), "faces": [], "problem": problem_of(one.error, field="file")}
    return {"file": str(one.path), **(one.body or {})}

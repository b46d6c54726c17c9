"""`face-server enroll`: a folder of people into a collection."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from face_server.api.services import Services
from face_server.app import open_services
from face_server.commands.concurrency import side_by_side
from face_server.commands.options import CollectionName, Data, Json, load_settings
from face_server.commands.pictures import Photo, find_photos, read_picture
from face_server.commands.terminal import SOME_FAILED, out, print_json, progress_bar
from face_server.domain.identity import Collection, Identity
from face_server.errors import FaceRejected, InvalidInput, NotFound
from face_server.pipeline.enrollment import new_id
from face_server.settings import Settings


class Status(StrEnum):
    """What became of one photo."""

    ENROLLED = "enrolled"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


_COLOURS = {Status.ENROLLED: "green", Status.SKIPPED: "dim", Status.REFUSED: "yellow", Status.FAILED: "red"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report. ``reasons`` are machine-readable, ``message`` says the same to people."""

    file: str
    person: str
    status: Status
    identity_id: str | None = None
    template_id: str | None = None
    quality: float | None = None
    reasons: tuple[str, ...] = ()
    message: str = ""


def enroll(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder a person, or a photo a person named by its file.", show_default=False)
    ],
    collection: CollectionName = None,
    override: Annotated[bool, typer.Option("--override", help="Take the largest face in spite of the quality gate.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Enrol a folder of people. Photos that are enrolled already are skipped, so it may be run again."""
    settings = load_settings(data=data, collection=collection, allow_anonymous=True)
    photos, left_out = find_photos(folder)
    outcomes, stored = asyncio.run(_enroll(settings, photos, override=override, quiet=as_json))
    counts = Counter(outcome.status for outcome in outcomes)
    if as_json:
        totals = {status.value: counts[status] for status in Status}
        print_json({"collection": stored.name, **totals, "left_out": [str(path) for path in left_out], "files": outcomes})
    else:
        for path in left_out:
            out.print(f"left out  {path}: not a picture", style="dim")
        totals_text = ", ".join(f"{counts[status]} {status}" for status in Status)
        out.print(f"{len(outcomes)} photos: {totals_text}", style="bold")
        out.print(f"the collection {stored.name!r} has {stored.identities} people with {stored.templates} templates")
    if counts[Status.REFUSED] or counts[Status.FAILED]:
        raise typer.Exit(SOME_FAILED)


async def _enroll(settings: Settings, photos: Sequence[Photo], *, override: bool, quiet: bool) -> tuple[list[Outcome], Collection]:
    async with open_services(settings) as services:
        enroller = FolderEnroller(services, settings.collection, override=override, max_bytes=settings.images.max_bytes)
        with progress_bar() as bar:
            task = bar.add_task("Enrolling", total=len(photos))

            def show(outcome: Outcome) -> None:
                bar.advance(task)
                if not quiet:
                    because = f": {outcome.message}" if outcome.message else ""
                    out.print(f"{outcome.status:<9} {outcome.file} as {outcome.person}{because}", style=_COLOURS[outcome.status])

            outcomes = await enroller.enroll_all(photos, show)
        return outcomes, await services.gallery.collection(settings.collection)


class FolderEnroller:
    """Enrols photos side by side; every photo ends as an ``Outcome``, whatever is wrong with it."""

    def __init__(self, services: Services, collection: str, *, override: bool, max_bytes: int) -> None:
        self._services = services
        self._collection = collection
        self._override = override
        self._max_bytes = max_bytes
        self._people: dict[str, Identity] = {}

    async def enroll_all(self, photos: Sequence[Photo], show: Callable[[Outcome], None]) -> list[Outcome]:
        """Enrol ``photos``; ``show`` is called as each is done. Outcomes come in the order of ``photos``."""
        for person in dict.fromkeys(photo.person for photo in photos):
            self._people[person] = await self._identity(person)
        return await side_by_side(photos, self._enroll_one, self._services.workers.threads, show)

    async def _identity(self, person: str) -> Identity:
        """The person of that name, or a new one; of several namesakes the first, which is where a second run finds them again."""
        known = await self._services.gallery.identities(self._collection, name=person, limit=1)
        return known[0] if known else Identity(new_id(), person)

    async def _enroll_one(self, photo: Photo) -> Outcome:
        identity = self._people[photo.person]
        file = str(photo.path)
        try:
            data, digest = await self._services.workers.run(_read, photo.path, self._max_bytes)
            twin = await self._services.gallery.find_image(self._collection, digest)
            if twin is not None and twin.identity_id == identity.id:
                return Outcome(file, photo.person, Status.SKIPPED, identity.id, twin.id, twin.quality, message="already enrolled")
            done = await self._services.enrollment.enroll(self._collection, identity, data, label=photo.path.name, override=self._override)
        except FaceRejected as error:
            return Outcome(file, photo.person, Status.REFUSED, reasons=error.reasons, message=error.message)
        except (InvalidInput, NotFound) as error:
            return Outcome(file, photo.person, Status.FAILED, reasons=(error.code,), message=error.message)
        overridden = tuple(str(reason) for reason in done.overridden)
        message = f"in spite of {', '.join(overridden)}" if overridden else ""
        return Outcome(file, photo.person, Status.ENROLLED, done.identity.id, done.template.id, done.template.quality, overridden, message)


def _read(path: Path, max_bytes: int) -> tuple[bytes, str]:
    data = read_picture(path, max_bytes)
    return data, hashlib.sha256(data).hexdigest()

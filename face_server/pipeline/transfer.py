"""Export and import of a collection as one file; ``transfer_format`` describes it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, RemoveTemplate, TemplateRecord
from face_server.domain.ports import Gallery
from face_server.errors import Conflict, InvalidInput, NotFound, Unavailable
from face_server.pipeline.transfer_file import TransferReader, TransferWriter
from face_server.workers import Workers

Item = TypeVar("Item")
Progress = Callable[[int], None]

_PAGE = 200
_ATTEMPTS = 3


class Clash(StrEnum):
    """What an import does with an identity or template whose id the collection holds already."""

    FAIL = "fail"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a file holds."""

    collection: str
    identities: int
    templates: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. ``created`` says that the collection is new."""

    collection: str
    created: bool
    identities_added: int = 0
    identities_skipped: int = 0
    identities_replaced: int = 0
    templates_added: int = 0
    templates_skipped: int = 0
    templates_replaced: int = 0


class Transfer:
    """Moves collections between galleries of any kind."""

    def __init__(self, gallery: Gallery, workers: Workers) -> None:
        self._gallery = gallery
        self._workers = workers

    async def export_file(self, collection: str, path: Path, *, crops: bool = True) -> ExportReport:
        """Write ``collection`` to ``path``, in place of what was there, once it is complete.

        Changes made meanwhile may or may not be in the file, but every template has its identity:
        if one vanishes at the wrong moment the export starts again. Raises Conflict when that
        happens three times, Unavailable when the file cannot be written.
        """
        await self._gallery.collection(collection)
        for _ in range(_ATTEMPTS):
            with _file_errors(path):
                written = await self._try_export(collection, path, crops=crops)
            if written is not None:
                return written
        raise Conflict(f"identities of collection {collection!r} are being erased or merged while it is exported; try again")

    async def import_file(self, path: Path, *, collection: str | None = None, clash: Clash = Clash.FAIL) -> ImportReport:
        """Import the file at ``path`` into ``collection`` (default: the name it was exported under).

        The file is checked whole before anything is stored. A collection that does not exist is
        made with the exported settings. ``SKIP`` keeps what the collection has under an id and adds
        the rest; ``REPLACE`` takes names, metadata and templates of the file in its place and
        leaves what the file does not name. If a later step fails, the pages imported so far stay,
        each whole; importing again with ``SKIP`` continues.

        Raises InvalidInput for a damaged, altered or incomplete file, ModelMismatch if the
        collection has another model, Conflict for ids that exist (``FAIL``).
        """
        reader = await self._workers.run(TransferReader, path)
        try:
            name = collection or reader.manifest.collection.name
            created = await self._ensure_collection(reader.manifest.collection_named(name), "the file")
            if not created and clash is Clash.FAIL:
                await self._refuse_clashes(name, reader)
            report = await self._import_identities(ImportReport(name, created), self._pages(reader.identities()), clash)
            return await self._import_templates(report, self._pages(reader.templates()), clash, "the file")
        finally:
            await asyncio.shield(self._workers.run(reader.close))

    async def copy_collection(self, source: Gallery, name: str, progress: Progress) -> ImportReport:
        """Copy a collection out of another gallery, under its own name; ``progress`` is told how many templates came.

        What is here already under the same ids stays as it is, so a copy that ended early goes on where it was.
        Raises ModelMismatch if there is a collection of that name with another model.
        """
        there, what = Transfer(source, self._workers), f"collection {name!r} of the source"
        created = await self._ensure_collection(await source.collection(name), what)
        report = await self._import_identities(ImportReport(name, created), there.identities(name), Clash.SKIP)
        return await self._import_templates(report, _told(there.templates(name), progress), Clash.SKIP, what)

    def identities(self, collection: str) -> AsyncIterator[list[Identity]]:
        """The identities of a collection in pages, by id."""
        return _stored_pages(lambda after: self._gallery.identities(collection, after=after, limit=_PAGE), lambda one: one.id)

    def templates(self, collection: str) -> AsyncIterator[list[TemplateRecord]]:
        """The templates of a collection in pages, by id."""
        return _stored_pages(lambda after: self._gallery.records(collection, after=after, limit=_PAGE), lambda one: one.template.id)

    async def _try_export(self, collection: str, path: Path, *, crops: bool) -> ExportReport | None:
        """None if a template's identity was gone when the identities were read."""
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        writer = TransferWriter(part, crops=crops)
        try:
            owners, people = _Names(), _Names()
            async for records in self.templates(collection):
                owners.add([record.template.identity_id for record in records])
                await self._workers.run(writer.add_templates, records)
            async for identities in self.identities(collection):
                people.add([one.id for one in identities])
                await self._workers.run(writer.add_identities, identities)
            if not owners.are_among(people):
                return None
            size = await self._workers.run(writer.finish, await self._gallery.collection(collection))
            await self._workers.run(part.replace, path)
        finally:
            await asyncio.shield(self._workers.run(writer.close))
        return ExportReport(collection, writer.identities, writer.templates, size)

    async def _ensure_collection(self, wanted: Collection, what: str) -> bool:
        """Whether the collection had to be made; ``what`` it comes from is named in errors."""
        try:
            stored = await self._gallery.collection(wanted.name)
        except NotFound:
            await self._gallery.create_collection(wanted)
            return True
        stored.model.require(wanted.model, what)
        return False

    async def _refuse_clashes(self, name: str, reader: TransferReader) -> None:
        stored = _Stored(self.identities(name), lambda identity: identity.id)
        async for identities in self._pages(reader.identities()):
            taken = await stored.among([one.id for one in identities])
            if taken:
                message = (
                    f"collection {name!r} has an identity {min(taken)!r} already; import with skip or replace, or into another collection"
                )
                raise Conflict(message, field="collection")

    async def _import_identities(self, report: ImportReport, pages: AsyncIterator[list[Identity]], clash: Clash) -> ImportReport:
        stored = _Stored(self.identities(report.collection), lambda identity: identity.id)
        async for page in pages:
            taken = set() if report.created or clash is Clash.FAIL else await stored.among([one.id for one in page])
            wanted = [one for one in page if clash is Clash.REPLACE or one.id not in taken]
            await self._gallery.apply(report.collection, [PutIdentity(one) for one in wanted])
            report = replace(
                report,
                identities_added=report.identities_added + len(page) - len(taken),
                identities_skipped=report.identities_skipped + len(page) - len(wanted),
                identities_replaced=report.identities_replaced + len(wanted) - (len(page) - len(taken)),
            )
        return report

    async def _import_templates(
        self, report: ImportReport, pages: AsyncIterator[list[TemplateRecord]], clash: Clash, what: str
    ) -> ImportReport:
        stored = _Stored(self.templates(report.collection), lambda record: record.template.id)
        looks = not report.created and clash is not Clash.FAIL
        async for page in pages:
            taken = await stored.among([one.template.id for one in page]) if looks else set()
            wanted = [one for one in page if clash is Clash.REPLACE or one.template.id not in taken]
            changes: list[Change] = [RemoveTemplate(one.template.id) for one in wanted if one.template.id in taken]
            try:
                await self._gallery.apply(report.collection, [*changes, *(AddTemplate(one) for one in wanted)])
            except NotFound as error:
                if error.field != "identity_id":
                    raise
                raise InvalidInput(f"{what} names an identity it does not hold: {error.message}", field="file") from error
            report = replace(
                report,
                templates_added=report.templates_added + len(page) - len(taken),
                templates_skipped=report.templates_skipped + len(page) - len(wanted),
                templates_replaced=report.templates_replaced + len(changes),
            )
        return report

    async def _pages(self, pages: Iterator[list[Item]]) -> AsyncIterator[list[Item]]:
        # A StopIteration cannot cross from a thread; no page is empty.
        while (page := await self._workers.run(next, pages, None)) is not None:
            yield page


async def _stored_pages(read: Callable[[str], Awaitable[list[Item]]], id_of: Callable[[Item], str]) -> AsyncIterator[list[Item]]:
    after = ""
    while page := await read(after):
        yield page
        after = id_of(page[-1])


async def _told(pages: AsyncIterator[list[Item]], progress: Progress) -> AsyncIterator[list[Item]]:
    async for page in pages:
        yield page
        progress(len(page))


class _Names:
    """Many ids in 8 bytes each, by their hashes."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]

    def add(self, names: Sequence[str]) -> None:
        digests = b"".join([hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names])
        self._hashes.append(np.unique(np.frombuffer(digests, np.uint64)))

    def are_among(self, others: _Names) -> bool:
        return bool(np.isin(self.hashes(), others.hashes()).all())

    def hashes(self) -> NDArray[np.uint64]:
        return np.unique(np.concatenate(self._hashes))


class _Stored(Generic[Item]):
    """Which ids a collection has, asked in rising order while its pages go by."""

    def __init__(self, pages: AsyncIterator[list[Item]], id_of: Callable[[Item], str]) -> None:
        self._pages = pages
        self._id_of = id_of
        self._ahead: list[str] = []
        self._ended = False

    async def among(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids``, all above those asked for before, that are stored."""
        found: set[str] = set()
        wanted = set(ids)
        while True:
            found |= wanted.intersection(self._ahead)
            if self._ended or (self._ahead and self._ahead[-1] >= ids[-1]):
                return found
            try:
                self._ahead = [self._id_of(one) for one in await anext(self._pages)]
            except StopAsyncIteration:
                self._ended, self._ahead = True, []


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{path.name} cannot be written: {error.strerror}", code="storage_unavailable") from error

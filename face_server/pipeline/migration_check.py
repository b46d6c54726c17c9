"""Whether two stores hold the same: everything of both is read, and its digests are compared."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from face_server.domain.events import Event
from face_server.domain.identity import Collection, Identity, TemplateRecord
from face_server.domain.ports import Gallery
from face_server.domain.stream_ports import Journal
from face_server.journal.records import write_event
from face_server.journal.references import pictures_of
from face_server.pipeline.migration import Advance, Side, dead_letters, events, pictures_in, silent, waiting
from face_server.pipeline.transfer import Transfer
from face_server.pipeline.transfer_format import IdentityLine, template_line
from face_server.workers import Workers

Digested = tuple[str, bytes]
"""What people call one thing, and the sha256 of all that it is."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind of thing on both sides: how many the source has, the sha256 of them all, and the first difference ("" if none)."""

    what: str
    count: int
    sha256: str
    difference: str


async def compare(source: Side, target: Side, workers: Workers, advance: Advance = silent) -> list[Compared]:
    """Read both sides whole and compare them, kind by kind, each in order.

    What of either side cannot be read is a difference of its own, the last one.
    """
    check = _Check(source, target, workers, advance)
    found = [await check.collections()]
    for name in sorted({one.name for side in (source, target) for one in await side.gallery.collections()}):
        if not found[0].difference:
            found += [await check.identities(name), await check.templates(name)]
    found += [await check.keys(), await check.streams(), await check.events(), await check.deliveries(), await check.dead_letters()]
    unreadable = [*source.damage(), *target.damage()]
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        found.append(Compared("records that cannot be read", len(unreadable), "", f"{unreadable[0]}{more}"))
    return found


class _Check:
    def __init__(self, source: Side, target: Side, workers: Workers, advance: Advance) -> None:
        self._sides = (source, target)
        self._workers = workers
        self._advance = advance

    async def collections(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            yield [(repr(one.name), _sha256(_settings(one))) for one in await side.gallery.collections()]

        return await self._compare("collections", read)

    async def identities(self, name: str) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            async for page in self._pages(side.gallery).identities(name):
                yield await self._workers.run(_identities, page)

        return await self._compare(f"people of {name!r}", read)

    async def templates(self, name: str) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            async for page in self._pages(side.gallery).templates(name):
                yield await self._workers.run(_templates, page)

        return await self._compare(f"templates of {name!r}", read)

    async def keys(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            for one in await side.keys.stored() if side.keys else []:
                yield [(one.key.id, _sha256(orjson.dumps(one.key) + one.digest))]

        return await self._compare("API keys", read)

    async def streams(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            for spec in await side.journal.streams() if side.journal else []:
                # Addresses and secrets are compared as they are, whatever key each side has sealed them with.
                yield [(repr(spec.id), _sha256(orjson.dumps(dataclasses.asdict(spec), default=sorted)))]

        return await self._compare("streams", read)

    async def events(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            if side.journal is not None:
                async for page in events(side.journal):
                    yield await self._with_pictures(side.journal, page)

        return await self._compare("events", read)

    async def deliveries(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            if side.journal is not None:
                # In order of the ids, which is that of the time: replayed letters wait behind newer events in one store only.
                some = [(lane.stream_id, lane.sink_key, event_id) async for event_id, lane in waiting(side.journal)]
                yield [(f"of event {one[2]}", _sha256(orjson.dumps(one))) for one in sorted(some)]

        return await self._compare("deliveries", read)

    async def dead_letters(self) -> Compared:
        async def read(side: Side) -> AsyncGenerator[list[Digested]]:
            if side.journal is not None:
                async for one in dead_letters(side.journal):
                    parts = (one.lane.stream_id, one.lane.sink_key, one.event.id, one.error, one.died_at)
                    yield [(f"of event {one.event.id}", _sha256(orjson.dumps(parts)))]

        return await self._compare("dead letters", read)

    async def _with_pictures(self, journal: Journal, page: Sequence[Event]) -> list[Digested]:
        pictures = await pictures_in(journal, page)

        def digest() -> list[Digested]:
            jpegs = {one.id: hashlib.sha256(one.jpeg).digest() for one in pictures}
            return [
                (event.id, _sha256(write_event(event).encode(), *(jpegs.get(one, b"-") for one in sorted(pictures_of(event)))))
                for event in page
            ]

        return await self._workers.run(digest)

    async def _compare(self, what: str, read: Callable[[Side], AsyncGenerator[list[Digested]]]) -> Compared:
        """Both sides go by at the same pace; neither is ever whole in memory."""
        whole, count = hashlib.sha256(), 0
        mine: list[Digested] = []
        theirs: list[Digested] = []
        async with aclosing(read(self._sides[0])) as source, aclosing(read(self._sides[1])) as target:
            while True:
                mine, theirs = await asyncio.gather(_more(mine, source), _more(theirs, target))
                both = min(len(mine), len(theirs))
                if not both or mine[:both] != theirs[:both]:
                    return Compared(what, count, whole.hexdigest(), _difference(mine, theirs))
                for _, digest in mine[:both]:
                    whole.update(digest)
                count += both
                self._advance(f"comparing {what}", both, None)
                mine, theirs = mine[both:], theirs[both:]

    def _pages(self, gallery: Gallery) -> Transfer:
        return Transfer(gallery, self._workers)


async def _more(left: list[Digested], pages: AsyncIterator[list[Digested]]) -> list[Digested]:
    """What is left of a page, or the next one; nothing at the end."""
    while not left:
        page = await anext(pages, None)
        if page is None:
            return []
        left = page
    return left


def _difference(mine: Sequence[Digested], theirs: Sequence[Digested]) -> str:
    """The first one, as a sentence; "" for two ends."""
    for one, other in zip(mine, theirs, strict=False):
        if one[0] != other[0]:
            return f"where the source has {one[0]} the target has {other[0]}"
        if one != other:
            return f"{one[0]} is not the same in both"
    if mine or theirs:
        return f"{mine[0][0]} is in the source only" if mine else f"{theirs[0][0]} is in the target only"
    return ""


def _identities(page: Sequence[Identity]) -> list[Digested]:
    lines = [IdentityLine(id=one.id, name=one.name, metadata=dict(one.metadata), created_at=one.created_at) for one in page]
    return [(repr(line.id), _sha256(line.model_dump_json().encode())) for line in lines]


def _templates(page: Sequence[TemplateRecord]) -> list[Digested]:
    """Of what an export would hold."""
    found: list[Digested] = []
    for record in page:
        crop = record.crop or b""
        line = template_line(record, len(crop)).model_dump_json().encode()
        found.append((repr(record.template.id), _sha256(line, record.embedding.vector.tobytes(), crop)))
    return found


def _settings(collection: Collection) -> bytes:
    return repr(dataclasses.astuple(collection)).encode()


def _sha256(*parts: Any) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()

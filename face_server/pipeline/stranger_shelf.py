"""Where remembered strangers are stored: a collection of their own in the gallery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from face_server.domain.embedding import ModelId
from face_server.domain.identity import Change, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.ports import Gallery
from face_server.domain.strangers import Stranger, StrangerPolicy
from face_server.errors import Conflict, NotFound

_PAGE = 1_000

# Holds the highest number given so far, so that it survives the stranger who has it. It has no
# template, so no search finds it, and sorts after all strangers' ids, which are hexadecimal.
_NUMBERING = "numbering"
_HIGHEST = "highest"


class StrangerShelf:
    """Reads strangers from the gallery and writes changes to them."""

    def __init__(self, gallery: Gallery, policy: StrangerPolicy) -> None:
        self._gallery = gallery
        self._policy = policy

    async def stored(self) -> Collection | None:
        """The collection, or None as long as no stranger was ever remembered."""
        try:
            return await self._gallery.collection(self._policy.collection)
        except NotFound:
            return None

    async def opened(self, model: ModelId) -> Collection:
        """The collection, made if need be. ModelMismatch where its templates are another model's."""
        stored = await self.stored()
        if stored is None:
            wanted = Collection(self._policy.collection, model, self._policy.threshold, target_fpir=self._policy.target_fpir)
            try:
                stored = await self._gallery.create_collection(wanted)
            except Conflict:
                # Another process was faster.
                stored = await self._gallery.collection(self._policy.collection)
        stored.model.require(model, "the embedding")
        return stored

    async def stranger(self, stranger_id: str) -> tuple[Stranger, list[Template]]:
        """One stranger and what is listed of their templates, oldest first. NotFound."""
        unknown = NotFound(f"no stranger has the id {stranger_id!r}", field="stranger_id")
        if stranger_id == _NUMBERING:
            raise unknown
        try:
            identity, templates = await self._gallery.identity(self._policy.collection, stranger_id)
        except NotFound as error:
            raise unknown from error
        return Stranger.of(identity), templates

    async def records(self, templates: Sequence[Template]) -> list[TemplateRecord]:
        """Templates with embeddings and crops."""
        return [await self._gallery.record(self._policy.collection, one.id) for one in templates]

    async def page(self, after: str, limit: int) -> list[Stranger]:
        """Strangers with id > ``after``, by id."""
        try:
            found = await self._gallery.identities(self._policy.collection, after=after, limit=limit + 1)
        except NotFound:
            return []
        return [Stranger.of(one) for one in found if one.id != _NUMBERING][:limit]

    async def everybody(self) -> AsyncIterator[Stranger]:
        """All strangers, by id."""
        after = ""
        while page := await self.page(after, _PAGE):
            for stranger in page:
                yield stranger
            after = page[-1].id

    async def next_number(self) -> tuple[int, Change]:
        """A number that no stranger ever had, and the change that remembers it; to be applied together with its use."""
        try:
            keeper, _ = await self._gallery.identity(self._policy.collection, _NUMBERING)
            highest = int(keeper.metadata[_HIGHEST])
        except (NotFound, KeyError, ValueError):
            highest = max([one.number async for one in self.everybody()], default=0)
        number = highest + 1
        return number, self.remembering(number)

    @staticmethod
    def remembering(number: int) -> Change:
        """The change that remembers the highest number given so far."""
        return PutIdentity(Identity(_NUMBERING, "(numbering)", {_HIGHEST: str(number)}))

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make changes, all or none."""
        await self._gallery.apply(self._policy.collection, changes)

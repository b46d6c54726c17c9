"""What must hold of the world before a stream is registered or changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from face_server.domain.streams import SinkSpec, StreamSpec
from face_server.errors import InvalidInput, NotFound


@dataclass(frozen=True, slots=True)
class Admittance:
    """Refuses what is new in a spec and cannot work: a typing mistake is told to whoever made it.

    What was there before is not looked at: a receiver that is down, or a collection that was erased
    meanwhile, keeps nobody from changing something else. ``find_collection`` raises NotFound,
    ``reach`` InvalidInput that names the field within the sink. ``publishes`` says whether there is
    an address to publish to.
    """

    find_collection: Callable[[str], Awaitable[object]]
    reach: Callable[[SinkSpec], Awaitable[None]]
    publishes: bool

    async def admit(self, after: StreamSpec, before: StreamSpec | None) -> None:
        """Raise InvalidInput, naming the field, for the first thing that cannot work."""
        if after.rules.publish and not self.publishes and not (before and before.rules.publish):
            raise InvalidInput(
                "this server has no address to publish to: set FACE_SERVER_STREAMS__PUBLISH_URL",
                code="no_publish_address",
                field="rules.publish",
            )
        await self._check_collections(after, before.collections if before else ())
        await self._check_sinks(after, before.sinks if before else ())

    async def _check_collections(self, after: StreamSpec, known: tuple[str, ...]) -> None:
        for index, name in enumerate(after.collections):
            if name in known:
                continue
            try:
                await self.find_collection(name)
            except NotFound as error:
                raise InvalidInput(f"there is no collection {name!r}", code="no_such_collection", field=f"collections[{index}]") from error

    async def _check_sinks(self, after: StreamSpec, known: tuple[SinkSpec, ...]) -> None:
        places = {(sink.kind, sink.address) for sink in known}
        new = [(index, sink) for index, sink in enumerate(after.sinks) if (sink.kind, sink.address) not in places]
        found = await asyncio.gather(*(self.reach(sink) for _, sink in new), return_exceptions=True)
        for (index, _), outcome in zip(new, found, strict=True):
            if isinstance(outcome, InvalidInput):
                raise InvalidInput(outcome.message, code=outcome.code, field=f"sinks[{index}].{outcome.field}") from outcome
            if isinstance(outcome, BaseException):
                raise outcome

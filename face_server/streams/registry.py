"""The streams that operators registered: what HTTP and the command line do with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from face_server.domain.frame import SourceInfo
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import Journal, StreamRunner
from face_server.domain.streams import SinkSpec, StreamSpec, StreamState, StreamStatus
from face_server.errors import Conflict, FaceServerError, InvalidInput, NotFound, Overloaded, Unavailable
from face_server.streams.masking import Masks, refuse_mask
from face_server.streams.patience import spawn

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SpecListener(Protocol):
    """Whoever must know the streams there are, such as who delivers their events."""

    def set_specs(self, specs: Sequence[StreamSpec]) -> None:
        """These are all the streams."""
        ...

    def put_spec(self, spec: StreamSpec) -> None:
        """A stream is new or has changed."""
        ...

    def drop_spec(self, stream_id: str) -> None:
        """A stream is gone."""
        ...


async def _admit_all(_after: StreamSpec, _before: StreamSpec | None) -> None:
    """Nothing outside of the spec needs to be asked."""


@dataclass(frozen=True, slots=True)
class StreamChecks:
    """What the adapters know of addresses, and of the world that a spec refers to.

    ``check_url`` and ``check_sink`` raise InvalidInput; the sink's names the field within the sink.
    ``redact`` masks the credentials in an address. ``probe`` opens a source and closes it again.
    ``admit`` is asked before a spec is registered or changed (given what it was before): it raises
    InvalidInput for what is new in it and cannot work now, such as a receiver that nobody reaches.
    """

    check_url: Callable[[str], None]
    check_sink: Callable[[SinkSpec], None]
    redact: Callable[[str], str]
    probe: Callable[[StreamSpec], Awaitable[SourceInfo]]
    admit: Callable[[StreamSpec, StreamSpec | None], Awaitable[None]] = _admit_all


class Streams:
    """Registers, changes and removes streams: the journal first, then whoever runs them.

    Changes of one stream follow one another. Nothing is half registered: what cannot be run is
    taken back. ``resume`` comes first.
    """

    def __init__(
        self, journal: Journal, runner: StreamRunner, listener: SpecListener, clock: Clock, checks: StreamChecks, *, max_streams: int = 64
    ) -> None:
        self._journal = journal
        self._runner = runner
        self._listener = listener
        self._clock = clock
        self._checks = checks
        self._masks = Masks(checks.redact)
        self._max_streams = max_streams
        self._specs: dict[str, StreamSpec] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._not_started: dict[str, tuple[FaceServerError, float]] = {}

    async def resume(self) -> None:
        """Run every stream that should run. One that cannot be started does not keep others from it."""
        specs = await self._journal.streams()
        self._specs = {spec.id: spec for spec in specs}
        self._listener.set_specs(specs)
        for spec in specs:
            if spec.enabled:
                await self._start_or_say_why(spec)

    async def _start_or_say_why(self, spec: StreamSpec) -> None:
        try:
            self._check(spec)
            await self._runner.start(spec)
        except FaceServerError as error:
            self._not_started[spec.id] = (error, self._clock.now())
            _log.warning("stream %s was not started: %s", spec.id, error)

    def specs(self) -> list[StreamSpec]:
        """Every stream as it was registered, in that order; with credentials."""
        return list(self._specs.values())

    def spec(self, stream_id: str) -> StreamSpec:
        """One stream as it was registered. NotFound if it is not."""
        spec = self._specs.get(stream_id)
        if spec is None:
            raise NotFound(f"there is no stream {stream_id!r}")
        return spec

    def masked(self, spec: StreamSpec) -> StreamSpec:
        """``spec`` as people may see it: without credentials."""
        return self._masks.masked(spec)

    def status(self, stream_id: str) -> StreamStatus:
        """A stream right now."""
        spec = self.spec(stream_id)
        if stream_id in self._not_started:
            error, since = self._not_started[stream_id]
            return StreamStatus(stream_id, StreamState.FAILED, since, error.message, error.code, last_error=error.message)
        try:
            return self._runner.status(stream_id)
        except NotFound:
            return StreamStatus(stream_id, StreamState.STOPPED, spec.created_at)

    async def create(self, spec: StreamSpec) -> StreamSpec:
        """Register a stream and run it, if it is enabled. Answers before it is connected.

        Raises InvalidInput that names the field, Conflict for an id that is taken, Overloaded beyond
        the limit of streams.
        """
        self._check(spec)
        self._check_place(spec.id)
        await self._checks.admit(spec, None)
        return await to_the_end(self._create(spec))

    def _check_place(self, stream_id: str) -> None:
        if stream_id in self._specs:
            raise Conflict(f"there is a stream {stream_id!r} already", code="stream_exists", field="id")
        if len(self._specs) >= self._max_streams:
            message = f"{len(self._specs)} streams are registered, the most of this server (FACE_SERVER_STREAMS__MAX_STREAMS)"
            raise Overloaded(message, retry_after_s=60.0, code="too_many_streams")

    async def _create(self, spec: StreamSpec) -> StreamSpec:
        async with self._turn(spec.id):
            # Again: others may have come first while the world was asked.
            self._check_place(spec.id)
            spec = spec if spec.created_at else replace(spec, created_at=self._clock.now())
            # Counted from here on: others ask for the last place while the journal writes.
            self._specs[spec.id] = spec
            stored = False
            try:
                await self._journal.add_stream(spec)
                stored = True
                self._listener.put_spec(spec)
                if spec.enabled:
                    await self._runner.start(spec)
            except Exception:
                del self._specs[spec.id]
                self._listener.drop_spec(spec.id)
                if stored:
                    await self._journal.remove_stream(spec.id)
                raise
            return spec

    async def change(self, stream_id: str, edit: Callable[[StreamSpec], StreamSpec]) -> StreamSpec:
        """Register what ``edit`` makes of a stream, and run it so. Masked credentials stand for those that are stored.

        ``edit`` may be called twice. Raises NotFound, or InvalidInput that names the field; the stream
        is then as it was.
        """
        before = self.spec(stream_id)
        after = self._edited(edit, before)
        await self._checks.admit(after, before)
        return await to_the_end(self._change(stream_id, edit))

    def _edited(self, edit: Callable[[StreamSpec], StreamSpec], before: StreamSpec) -> StreamSpec:
        """What ``edit`` makes of a spec, checked."""
        after = self._masks.unmasked(replace(edit(before), id=before.id), before)
        if after.enabled or not _same_places(after, before):
            # What is switched off may stay as it is: an address that is forbidden by now must not keep it on.
            self._check(after)
        return after

    async def _change(self, stream_id: str, edit: Callable[[StreamSpec], StreamSpec]) -> StreamSpec:
        async with self._turn(stream_id):
            before = self.spec(stream_id)
            after = self._edited(edit, before)
            if after == before and stream_id not in self._not_started:
                return before
            await self._store(after)
            try:
                await self._run(after)
            except Exception:
                await self._store(before)
                raise
            self._not_started.pop(stream_id, None)
            return after

    async def _store(self, spec: StreamSpec) -> None:
        await self._journal.replace_stream(spec)
        self._specs[spec.id] = spec
        self._listener.put_spec(spec)

    async def remove(self, stream_id: str) -> None:
        """Stop a stream and forget it."""
        await to_the_end(self._remove(stream_id))

    async def _remove(self, stream_id: str) -> None:
        async with self._turn(stream_id):
            self.spec(stream_id)
            await self._journal.remove_stream(stream_id)
            del self._specs[stream_id]
            self._not_started.pop(stream_id, None)
            await self._forget(stream_id)

    async def _forget(self, stream_id: str) -> None:
        try:
            await self._runner.forget(stream_id)
        except NotFound:
            _log.debug("stream %s was removed before it ever ran", stream_id)
        self._listener.drop_spec(stream_id)

    async def restart(self, stream_id: str) -> None:
        """Connect anew. Conflict for a stream that is switched off."""
        async with self._turn(stream_id):
            spec = self.spec(stream_id)
            if not spec.enabled:
                raise Conflict(f"stream {stream_id!r} is switched off", code="stream_disabled")
            self._not_started.pop(stream_id, None)
            try:
                await self._runner.restart(stream_id)
            except NotFound:
                await self._runner.start(spec)

    async def set_enabled(self, stream_id: str, *, enabled: bool) -> StreamSpec:
        """Switch a stream on or off."""
        return await self.change(stream_id, lambda spec: replace(spec, enabled=enabled))

    async def probe(self, spec: StreamSpec) -> SourceInfo:
        """Open a source, say what it shows, and close it again. Nothing is kept."""
        self._check(spec)
        return await self._checks.probe(spec)

    async def snapshot(self, stream_id: str, *, annotated: bool = True) -> bytes:
        """The newest frame as JPEG. Unavailable while there is none."""
        self.spec(stream_id)
        try:
            return await self._runner.snapshot(stream_id, annotated=annotated)
        except NotFound as error:
            raise Unavailable(f"stream {stream_id!r} does not run", code="no_picture") from error

    def preview(self, stream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Annotated frames as JPEG for as long as the block lasts."""
        self.spec(stream_id)
        try:
            return self._runner.preview(stream_id)
        except NotFound as error:
            raise Unavailable(f"stream {stream_id!r} does not run", code="no_picture") from error

    async def close(self) -> None:
        """Stop every stream; they run again after the next ``resume``. Idempotent."""
        await self._runner.close()

    def _turn(self, stream_id: str) -> asyncio.Lock:
        # Locks live as long as somebody holds or awaits them.
        return self._turns.setdefault(stream_id, asyncio.Lock())

    async def _run(self, spec: StreamSpec) -> None:
        if spec.enabled:
            await self._runner.start(spec)
            return
        try:
            await self._runner.stop(spec.id)
        except NotFound:
            _log.debug("stream %s was switched off before it ever ran", spec.id)

    def _check(self, spec: StreamSpec) -> None:
        """Refuse addresses that cannot work, each under the name of its field."""
        _named("url", lambda: self._check_url(spec.url))
        if spec.detail_url:
            _named("detail_url", lambda: self._check_url(spec.detail_url))
        for index, sink in enumerate(spec.sinks):
            try:
                refuse_mask(sink.address, "address")
                refuse_mask(sink.secret, "secret")
                self._checks.check_sink(sink)
            except InvalidInput as error:
                field = f"sinks[{index}].{error.field}" if error.field else f"sinks[{index}]"
                raise InvalidInput(error.message, code=error.code, field=field) from error

    def _check_url(self, url: str) -> None:
        refuse_mask(url, "url")
        self._checks.check_url(url)


def _same_places(one: StreamSpec, other: StreamSpec) -> bool:
    return (one.url, one.detail_url, one.sinks) == (other.url, other.detail_url, other.sinks)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What was begun is finished even if its caller goes away: what is half changed would stay so."""
    return await asyncio.shield(spawn(work, "changing"))


def _named(field: str, check: Callable[[], None]) -> None:
    try:
        check()
    except InvalidInput as error:
        raise InvalidInput(error.message, code=error.code, field=field) from error

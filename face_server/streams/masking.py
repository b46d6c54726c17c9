"""Specs as people may see them: credentials masked, and put back where masked ones come in again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from face_server.domain.streams import SinkSpec, StreamSpec
from face_server.errors import InvalidInput

MASK = "***"


class Masks:
    """``redact`` masks the credentials in an address with ``MASK``."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact

    def masked(self, spec: StreamSpec) -> StreamSpec:
        """``spec`` without credentials."""
        sinks = tuple(replace(sink, address=self._redact(sink.address), secret=MASK if sink.secret else "") for sink in spec.sinks)
        return replace(spec, url=self._redact(spec.url), detail_url=self._redact(spec.detail_url), sinks=sinks)

    def unmasked(self, spec: StreamSpec, stored: StreamSpec) -> StreamSpec:
        """``spec`` with the credentials of ``stored`` where it repeats what ``masked`` showed of them."""
        urls = {self._redact(url): url for url in (stored.detail_url, stored.url)}
        return replace(
            spec,
            url=urls.get(spec.url, spec.url),
            detail_url=urls.get(spec.detail_url, spec.detail_url),
            sinks=tuple(self._unmasked_sink(sink, stored) for sink in spec.sinks),
        )

    def _unmasked_sink(self, sink: SinkSpec, stored: StreamSpec) -> SinkSpec:
        same = [old for old in stored.sinks if old.kind is sink.kind and sink.address in (self._redact(old.address), old.address)]
        if not same:
            return sink
        return replace(sink, address=same[0].address, secret=same[0].secret if sink.secret == MASK else sink.secret)


def refuse_mask(text: str, field: str) -> None:
    """Raise InvalidInput where a mask is left: nothing is stored that it could stand for."""
    if MASK in text:
        raise InvalidInput(f"{field} holds {MASK} where credentials belong, and none are stored for it; write them out", field=field)

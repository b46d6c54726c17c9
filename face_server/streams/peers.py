"""Pictures of streams that run on another replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Protocol
from urllib.parse import quote

import httpx

from face_server.domain.replicas import ReplicaNote
from face_server.errors import Overloaded, Unavailable

FORWARDED = "x-face-server-forwarded"
"""A request with this field comes from another replica, and is answered here or not at all."""

_CALLERS_FIELDS = ("authorization", "x-api-key", "x-request-id")
_CONNECT_S = 2.0
_SNAPSHOT_S = 10.0
# A preview shows a card when the camera is away: silence means that its replica is.
_SILENCE_S = 10.0
_MAX_PICTURE_BYTES = 64 * 1024 * 1024

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})

caller: ContextVar[Mapping[str, str]] = ContextVar("caller", default=_NO_FIELDS)
"""The fields of the request that is being answered, in lower case: whoever may see a picture here may see it there."""


class PeerViews(Protocol):
    """Fetches pictures from the replica that has them. Unavailable with its name where that fails."""

    async def snapshot(self, owner: ReplicaNote, stream_id: str, *, annotated: bool) -> bytes:
        """See ``StreamRunner.snapshot``."""
        ...

    def preview(self, owner: ReplicaNote, stream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See ``StreamRunner.preview``."""
        ...


class HttpPeerViews:
    """``PeerViews`` through the HTTP API of the owner, with the API key of whoever asks here."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S))

    async def snapshot(self, owner: ReplicaNote, stream_id: str, *, annotated: bool) -> bytes:
        """See ``PeerViews.snapshot``."""
        url = _url(owner, stream_id, "snapshot.jpg")
        try:
            answer = await self._client.get(url, params={"annotated": annotated}, headers=_headers(), timeout=_SNAPSHOT_S)
        except httpx.HTTPError as error:
            raise _unreachable(owner, stream_id) from error
        _check(answer, owner, stream_id)
        return answer.content

    @asynccontextmanager
    async def preview(self, owner: ReplicaNote, stream_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See ``PeerViews.preview``."""
        url, headers = _url(owner, stream_id, "preview.mjpeg"), _headers()
        try:
            request = self._client.build_request("GET", url, headers=headers)
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(owner, stream_id) from error
        try:
            _check(answer, owner, stream_id)
            yield _pictures(answer, owner, stream_id)
        finally:
            await answer.aclose()

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._client.aclose()


def elsewhere(owner: ReplicaNote, stream_id: str, why: str) -> Unavailable:
    """The error for a picture that only another replica has."""
    return Unavailable(
        f"stream {stream_id!r} runs on the replica {owner.name or owner.id}, {why}", code="runs_elsewhere", retry_after_s=2.0
    )


def _url(owner: ReplicaNote, stream_id: str, name: str) -> str:
    """Where the owner has a picture. Unavailable where it says no address, or this request was passed on once already."""
    if not owner.url:
        raise elsewhere(owner, stream_id, "which tells no address: set its FACE_SERVER_STATE__REPLICA_URL")
    if FORWARDED in caller.get():
        raise elsewhere(owner, stream_id, "to which it has just moved")
    return f"{owner.url.rstrip('/')}/v1/streams/{quote(stream_id, safe='')}/{name}"


def _headers() -> dict[str, str]:
    fields = caller.get()
    return {name: fields[name] for name in _CALLERS_FIELDS if name in fields} | {FORWARDED: "1"}


def _unreachable(owner: ReplicaNote, stream_id: str) -> Unavailable:
    return elsewhere(owner, stream_id, "which cannot be reached at its address")


def _check(answer: httpx.Response, owner: ReplicaNote, stream_id: str) -> None:
    if answer.status_code == httpx.codes.OK:
        return
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise Overloaded(f"the replica {owner.name or owner.id} has too many viewers", code="too_many_viewers", retry_after_s=5.0)
    raise elsewhere(owner, stream_id, f"which answered with status {answer.status_code}")


async def _pictures(answer: httpx.Response, owner: ReplicaNote, stream_id: str) -> AsyncIterator[bytes]:
    """The JPEGs of a multipart answer whose parts say their length."""
    buffer = bytearray()
    try:
        async for chunk in answer.aiter_raw():
            buffer += chunk
            while (jpeg := _cut(buffer)) is not None:
                yield jpeg
            if len(buffer) > _MAX_PICTURE_BYTES:
                raise elsewhere(owner, stream_id, "whose pictures are too large")
    except httpx.HTTPError as error:
        raise _unreachable(owner, stream_id) from error


def _cut(buffer: bytearray) -> bytes | None:
    """Take the first whole part out of the buffer, if there is one."""
    head, separator, _ = bytes(buffer[:1024]).partition(b"\r\n\r\n")
    if not separator:
        return None
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n") if b":" in line)
    begin, size = len(head) + len(separator), int(fields.get(b"content-length", b"0"))
    if len(buffer) < begin + size + 2:
        return None
    jpeg = bytes(buffer[begin : begin + size])
    del buffer[: begin + size + 2]
    return jpeg

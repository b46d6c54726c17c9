"""Lets whoever answers a request ask another replica in the caller's name."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from face_server.streams.peers import FORWARDED, caller

_FIELDS = frozenset({b"authorization", b"x-api-key", b"x-request-id", FORWARDED.encode()})


class CallerFields:
    """Keeps the fields of a request that another replica needs to see, for as long as it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            caller.set({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _FIELDS})
        await self._app(scope, receive, send)

"""Says with every answer when this replica's copy of the gallery may be old."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from face_server.api.services import Services

HEADER = "x-gallery-stale-since"
"""When the copy surely was equal to the store for the last time, ISO 8601; ``never`` if it never was. Absent while it is."""


class Staleness:
    """Adds ``x-gallery-stale-since`` while searches are answered from a copy whose store is away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        services: Services | None = getattr(scope["app"].state, "services", None) if scope["type"] == "http" else None
        if services is None or services.gallery.freshness.current:
            await self._app(scope, receive, send)
            return
        since = services.gallery.freshness.stale_since
        text = "never" if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = text
            await send(message)

        await self._app(scope, receive, dated)

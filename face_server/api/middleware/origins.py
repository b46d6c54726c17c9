"""Whose pages may talk to a server that asks for no key.

A browser sends requests to 127.0.0.1 for any website. Two checks keep foreign pages from using the
user's own server: requests with a foreign ``Origin`` are refused, and so is a ``Host`` that a
public name server could have pointed at this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from typing import cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from face_server.api.services import Services
from face_server.errors import AccessDenied

_REQUESTS = frozenset({"http", "websocket"})


class Origins:
    """Refuses foreign pages where no API key does. ``cors_origins`` and ``hosts`` are trusted."""

    def __init__(self, app: ASGIApp, cors_origins: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        self._app = app
        self._cors_origins = frozenset(cors_origins)
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket. Raises AccessDenied."""
        if scope["type"] in _REQUESTS and cast("Services", scope["app"].state.services).keys is None:
            headers = Headers(scope=scope)
            self._check(headers.get("host", ""), headers.get("origin"))
        await self._app(scope, receive, send)

    def _check(self, host: str, origin: str | None) -> None:
        if origin is not None and origin not in self._cors_origins and urlsplit(origin).netloc.lower() != host.lower():
            message = "pages of another origin may not call this server: list the origin in FACE_SERVER_HTTP__CORS_ORIGINS"
            raise AccessDenied(message, authenticated=True)
        name = urlsplit(f"//{host}").hostname or ""
        if not (_is_local(name) or name in self._hosts):
            message = (
                "this server asks for no key, so it answers to its address only: list the name in FACE_SERVER_HTTP__HOSTS, or create a key"
            )
            raise AccessDenied(message, authenticated=True)


def _is_local(name: str) -> bool:
    """Whether no public name server can answer for this name: an address, or a name without a dot."""
    if "." not in name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

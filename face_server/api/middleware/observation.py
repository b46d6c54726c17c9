"""The outermost layer: request ids, metrics, access log, and an answer to every error."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from face_server.api.live import is_endless
from face_server.api.problems import reply_to, reply_to_unexpected
from face_server.errors import FaceServerError
from face_server.telemetry import Metrics, request_id

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUESTS = frozenset({"http", "websocket"})
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
_SOCKET_STARTS = {"websocket.accept": 101, "websocket.close": 403}
_access = logging.getLogger("face_server.access")


class Observation:
    """Gives each request an id, answers errors that no inner layer answered, counts and logs."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] not in _REQUESTS:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identifier = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        token = request_id.set(identifier)
        started = time.perf_counter()
        status, told = 0, False
        # What lasts for days is told when it begins.
        lasting = scope["type"] == "websocket" or is_endless(scope)

        async def identified(message: Message) -> None:
            nonlocal status, told
            if message["type"] in _STARTS:
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identifier
                headers["x-content-type-options"] = "nosniff"
            elif not status and message["type"] in _SOCKET_STARTS:
                status = _SOCKET_STARTS[message["type"]]
            if lasting and status and not told:
                told = True
                self._tell(scope, status, time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except ClientDisconnect:
            status = status or _CLIENT_LEFT
        except FaceServerError as error:
            if status:
                raise
            await reply_to(error)(scope, receive, identified)
        except Exception as error:
            if status:
                raise
            await reply_to_unexpected(error)(scope, receive, identified)
        finally:
            if not told:
                self._tell(scope, status, time.perf_counter() - started)
            request_id.reset(token)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        template = str(getattr(scope.get("route"), "path", "unmatched"))
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.request(method, template, status, seconds)
        fields = {"method": method, "route": template, "status": status, "took_ms": round(1000 * seconds, 1)}
        _access.info("%s %s %d %.1f ms", method, template, status, 1000 * seconds, extra={"fields": fields})

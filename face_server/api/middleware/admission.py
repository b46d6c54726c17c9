"""How many requests are worked on, how many wait, and which are sent away."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from face_server.api.live import is_endless
from face_server.errors import Overloaded
from face_server.telemetry import Metrics

_EXEMPT = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"})


def is_exempt(scope: Scope) -> bool:
    """Whether a request passes without being counted: probes, metrics, documentation, static files."""
    path = str(scope.get("path", ""))
    return scope["type"] != "http" or path in _EXEMPT or path.startswith("/static/")


class Admission:
    """The places of the house: ``working`` requests are worked on, ``waiting`` more may wait."""

    def __init__(self, working: int, waiting: int, metrics: Metrics) -> None:
        self._limit = working + waiting
        self._turns = asyncio.Semaphore(working)
        self._metrics = metrics
        self._inside = 0
        self._working = 0

    def enter(self) -> None:
        """Take a place in the house. Raises Overloaded when it is full."""
        if self._inside >= self._limit:
            raise Overloaded(f"{self._limit} requests are being worked on or wait, which is the limit; retry later", retry_after_s=1.0)
        self._inside += 1
        self._report()

    def leave(self) -> None:
        """Give the place back."""
        self._inside -= 1
        self._report()

    async def start(self) -> None:
        """Wait for a turn to be worked on, first come first served."""
        await self._turns.acquire()
        self._working += 1
        self._report()

    def stop(self) -> None:
        """Give the turn back."""
        self._working -= 1
        self._turns.release()
        self._report()

    def _report(self) -> None:
        self._metrics.admission(self._working, self._inside - self._working)


class House:
    """Refuses requests when the house is full, before their body is read."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if is_exempt(scope) or is_endless(scope):
            await self._app(scope, receive, send)
            return
        self._admission.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.leave()


class Turn:
    """Lets a request, whose body is there, wait until it may be worked on."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if is_exempt(scope) or is_endless(scope):
            await self._app(scope, receive, send)
            return
        await self._admission.start()
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.stop()

"""The HTTP application: routes, middlewares, errors and documentation put together."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from face_server import __version__, web
from face_server.api import openapi, problems
from face_server.api.compat import face_server as image_recog
from face_server.api.compat import face_server_streams, insightface_rest
from face_server.api.middleware.admission import Admission, House, Turn
from face_server.api.middleware.bodies import Bodies, BodyLimits, Cancellation
from face_server.api.middleware.observation import Observation
from face_server.api.middleware.origins import Origins
from face_server.api.middleware.peers import CallerFields
from face_server.api.middleware.staleness import HEADER as STALE_SINCE
from face_server.api.middleware.staleness import Staleness
from face_server.api.routers import (
    analysis,
    collections,
    console,
    documentation,
    events,
    identities,
    recognition,
    sinks,
    strangers,
    streams,
    system,
    templates,
    transfer,
)
from face_server.api.security import authorize, secret_in
from face_server.api.services import Served, Services
from face_server.api.static_files import FreshFiles
from face_server.domain.access import Role
from face_server.telemetry import Metrics

_ROUTERS: tuple[APIRouter, ...] = (
    analysis.router,
    recognition.router,
    collections.router,
    identities.router,
    templates.router,
    transfer.router,
    streams.router,
    events.router,
    strangers.router,
    sinks.router,
    system.router,
    console.router,
    documentation.router,
    insightface_rest.router,
    image_recog.router,
    face_server_streams.router,
)

_STATIC = Path(web.__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Bounds of the HTTP layer, the origins that browsers may call from and the names it answers to without keys.

    A body has at most ``max_body_bytes`` (imports: ``max_import_bytes``) and arrives within
    ``body_timeout_s``; all bodies in memory together have at most ``max_buffered_bytes``.
    """

    max_body_bytes: int = 64 * 1024 * 1024
    max_import_bytes: int = 16 * 1024 * 1024 * 1024
    max_buffered_bytes: int = 1024 * 1024 * 1024
    body_timeout_s: float = 30.0
    max_concurrent_requests: int = 64
    max_waiting_requests: int = 256
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def create_api(
    open_served: Callable[[], AbstractAsyncContextManager[Served]], options: ApiOptions | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """The ASGI application. Its lifespan opens the services and closes them again.

    Whoever serves it sets ``app.state.leaving`` when it is about to stop: answers without an end end then.
    """
    options = options or ApiOptions()
    metrics = metrics or Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.openapi = orjson.dumps(app.openapi())
        app.state.leaving = asyncio.Event()
        async with open_served() as served:
            app.state.services, app.state.cameras = served.services, served.cameras
            try:
                yield
            finally:
                app.state.leaving.set()

    app = FastAPI(
        title="face_server",
        summary="Who is in this picture, and on this camera?",
        description=openapi.DESCRIPTION.strip(),
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        middleware=_middleware(options, metrics),
        generate_unique_id_function=_operation_id,
    )
    app.state.metrics = metrics
    problems.install(app)
    _answer_directly(app, "/extract", insightface_rest.extract, Role.READ)
    for router in _ROUTERS:
        app.include_router(router)
    # Static files ask for media types, whose table is read from disk: now rather than in a request.
    mimetypes.init()
    app.mount("/static", FreshFiles(directory=_STATIC), name="static")
    _document_once(app)
    return app


def _answer_directly(app: FastAPI, path: str, endpoint: Callable[[Request, Services], Awaitable[Response]], role: Role) -> None:
    """Answer POST ``path`` before FastAPI looks at it; its own route of that path remains for the document.

    Finding the route, its dependencies and their exit stacks takes the event loop a quarter of the
    time it has for a picture, and this path is the one that is called thousands of times a minute.
    """

    async def answer(request: Request) -> Response:
        request.scope["route"] = route
        services = cast("Services", request.app.state.services)
        await authorize(services, role, secret_in(request.headers))
        return await endpoint(request, services)

    route = Route(path, answer, methods=["POST"], include_in_schema=False)
    app.router.routes.insert(0, route)


def _middleware(options: ApiOptions, metrics: Metrics) -> list[Middleware]:
    """Outermost first: a refused request costs nothing, and a slow body takes nobody's turn.

    CORS stands before the layer that answers errors, so that pages can read them.
    """
    admission = Admission(options.max_concurrent_requests, options.max_waiting_requests, metrics)
    bodies = BodyLimits(options.max_body_bytes, options.body_timeout_s, options.max_buffered_bytes, options.max_import_bytes)
    cors = (
        [
            Middleware(
                CORSMiddleware,
                allow_origins=list(options.cors_origins),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after", STALE_SINCE],
            )
        ]
        if options.cors_origins
        else []
    )
    return [
        *cors,
        Middleware(Observation, metrics=metrics),
        Middleware(Staleness),
        Middleware(CallerFields),
        Middleware(Origins, cors_origins=options.cors_origins, hosts=options.hosts),
        Middleware(House, admission=admission),
        Middleware(Bodies, limits=bodies),
        Middleware(Cancellation),
        Middleware(Turn, admission=admission),
    ]


def _operation_id(route: APIRoute) -> str:
    """Operation ids of foreign APIs: their tag and the function's name."""
    tag = str(route.tags[0]) if route.tags else "other"
    return f"{tag}_{route.name}".lower().replace("-", "_").replace(" ", "_")


def _document_once(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app, _ROUTERS)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend the document

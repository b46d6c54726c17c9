"""`face-server serve` and `face-server openapi`."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from face_server.api.services import ModelInfo, Services
from face_server.app import create_app
from face_server.commands.options import Data, load_settings
from face_server.commands.terminal import out, print_json
from face_server.errors import ConfigurationError
from face_server.memory import return_large_blocks
from face_server.settings import Settings
from face_server.telemetry import configure_logging

_BACKLOG = 2048

# Longer than the idle time of common proxies (60 s): they close first, so no request meets a connection that just closed.
_KEEP_ALIVE_S = 75

# What is under way may end before connections are cut.
_GRACE_S = 3

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not listened on


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on: FACE_SERVER_HOST, or else 127.0.0.1.", show_default=False)] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on, 0 for a free one: FACE_SERVER_PORT, or else 18081.", show_default=False),
    ] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Serve without API keys on an address that others reach.")
    ] = False,
    media: Annotated[
        list[Path] | None,
        typer.Option(
            "--media",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder whose video files streams may name as their source (repeatable).",
            show_default=False,
        ),
    ] = None,
    allow_devices: Annotated[bool, typer.Option("--allow-devices", help="Let streams name /dev/video* as their source.")] = False,
    data: Data = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; what is under way is finished first."""
    settings = load_settings(host=host, port=port, data=data, allow_anonymous=allow_anonymous or None)
    settings = settings.for_cameras(tuple(media or ()), allow_devices=allow_devices)
    configure_logging(settings.log_level, settings.log_format)
    return_large_blocks()
    # uvicorn takes these over while it serves, shuts down in order, and hands the signal on.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    listener = _listen(settings.host, settings.port)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    app = create_app(settings)
    server = _Server(_server_config(app, settings), app)
    with listener, asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(app, server, listener, settings))


class _Server(uvicorn.Server):
    """Ends what would never end by itself, such as previews, before it waits for what is under way."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._api = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and let requests finish."""
        self._api.state.leaving.set()
        await super().shutdown(sockets)


def openapi(data: Data = None) -> None:
    """Print the OpenAPI document of the HTTP API."""
    print_json(create_app(load_settings(data=data)).openapi())


async def _serve(app: FastAPI, server: uvicorn.Server, listener: socket.socket, settings: Settings) -> None:
    # The lifespan runs here and not inside uvicorn, which would print a traceback for every wrong setting.
    async with app.router.lifespan_context(app):
        _print_welcome(settings, app.state.services, listener.getsockname()[1])
        await server.serve(sockets=[listener])


def _server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def _is_news(record: logging.LogRecord) -> bool:
    """Keep a log record unless it is uvicorn's report of a request that the end of the grace period cut off, or of a refused WebSocket."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and record.msg != "ASGI callable returned without completing handshake."


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _print_welcome(settings: Settings, services: Services, port: int) -> None:
    host = "127.0.0.1" if settings.host in _WILDCARDS else settings.host
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    access = "no API key needed" if services.keys is None else "every request needs an API key (face-server keys create)"
    out.print(f"face_server {services.version} serves on {address}", style="bold green")
    for name, value in (
        ("open", f"{address}/"),
        ("try it", f"{address}/docs"),
        ("read it", f"{address}/redoc"),
        ("health", f"{address}/readyz"),
        ("metrics", f"{address}/metrics"),
        ("access", access),
        ("data", str(settings.data.resolve())),
        ("backend", services.backend.description),
        ("detector", _licensed(services.detector)),
        ("embedder", _licensed(services.embedder)),
    ):
        out.print(f"  {name:<9} {value}")


def _licensed(model: ModelInfo) -> str:
    return f"{model.name}, {model.licence}{'' if model.commercial_use else ' (no commercial use)'}"

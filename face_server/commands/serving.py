"""`face-server serve` and `face-server openapi`."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from face_server.api.services import ModelInfo, Services
from face_server.app import create_app
from face_server.app_state import Replica
from face_server.app_streams import LOOPBACK
from face_server.commands.options import Data, load_settings
from face_server.commands.terminal import out, print_json
from face_server.commands.worker_processes import MAX_WORKERS, Place, WorkerProcesses, check_workers, replica_of, report_ready
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
    workers: Annotated[
        int, typer.Option(min=1, max=MAX_WORKERS, help="Processes that serve together on the port; more than one needs a Redis.")
    ] = 1,
    no_streams: Annotated[
        bool, typer.Option("--no-streams", help="Run no streams here: other replicas do. Needs a Redis, like all replicas.")
    ] = False,
    as_worker: Annotated[str | None, typer.Option("--as-worker", hidden=True)] = None,
    data: Data = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; what is under way is finished first."""
    place = Place.parse(as_worker) if as_worker is not None else None
    settings = load_settings(host=host, port=port, data=data, allow_anonymous=allow_anonymous or None)
    settings = settings.for_cameras(tuple(media or ()), allow_devices=allow_devices)
    check_workers(workers, runs_streams=not no_streams, shared=settings.state.shared)
    configure_logging(settings.log_level, settings.log_format)
    return_large_blocks()
    # uvicorn takes these over while it serves, shuts down in order, and hands the signal on.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    if place is None:
        with _listen(settings.host, settings.port) as listener:
            if workers == 1:
                _serve_here(settings, [listener], None, runs_streams=not no_streams)
            else:
                flags = {"--allow-anonymous": allow_anonymous, "--allow-devices": allow_devices, "--no-streams": no_streams}
                options = [flag for flag, given in flags.items() if given]
                options += [part for folder in media or () for part in ("--media", str(folder))]
                line = partial(_worker_line, settings, listener.getsockname()[1], options)
                raise typer.Exit(asyncio.run(WorkerProcesses(line, workers, listener).run()))
        return
    # The second leads to this very worker: others fetch the pictures of its streams there.
    with place.listening() as listener, _listen(settings.host, 0) as own:
        _serve_here(settings, [listener, own], place, runs_streams=not no_streams)


def _worker_line(settings: Settings, port: int, options: Sequence[str], place: Place) -> list[str]:
    """The command line of a worker: the parent's own options, and its place. All else it reads from the environment, as the parent did."""
    common = ["--host", settings.host, "--port", str(port), "--data", str(settings.data)]
    return [sys.executable, "-m", "face_server", "serve", *common, *options, "--as-worker", str(place)]


def _serve_here(settings: Settings, listeners: Sequence[socket.socket], place: Place | None, *, runs_streams: bool) -> None:
    """Serve in this process."""
    ports = [listener.getsockname()[1] for listener in listeners]
    replica = replica_of(place, port=ports[0], own_port=ports[-1], url=_own_url(settings, ports[0]), runs_streams=runs_streams)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    app = create_app(settings, replica)
    server = _Server(_server_config(app, settings), app)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(app, server, listeners, settings, place, replica))


def _own_url(settings: Settings, port: int) -> str:
    """Where other replicas reach this machine: as the operator says, or on this machine only where nobody else can."""
    return settings.state.replica_url or (f"http://127.0.0.1:{port}" if settings.host in LOOPBACK else "")


class _Server(uvicorn.Server):
    """Ends what would never end by itself, such as previews, before it waits for what is under way."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._api = app

    def leave(self) -> None:
        """Serve no more, in good order."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and let requests finish."""
        self._api.state.leaving.set()
        await super().shutdown(sockets)


def openapi(data: Data = None) -> None:
    """Print the OpenAPI document of the HTTP API."""
    print_json(create_app(load_settings(data=data)).openapi())


async def _serve(
    app: FastAPI, server: _Server, listeners: Sequence[socket.socket], settings: Settings, place: Place | None, replica: Replica
) -> None:
    # The lifespan runs here and not inside uvicorn, which would print a traceback for every wrong setting.
    async with app.router.lifespan_context(app):
        if place is None or place.number == 0:
            _print_welcome(settings, app.state.services, listeners[0].getsockname()[1])
        if place is None:
            await server.serve(sockets=list(listeners))
            return
        logging.getLogger(__name__).info("this is the replica %s", replica.name)
        link = asyncio.create_task(report_ready(place, server.leave), name="link to the parent")
        try:
            await server.serve(sockets=list(listeners))
        finally:
            link.cancel()


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

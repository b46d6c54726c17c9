"""`face-server demo`: a camera made of a video file, watched by a running server."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer

from face_server.commands.terminal import err, out
from face_server.errors import ConfigurationError
from face_server.video.demo_camera import DemoCamera

_TIMEOUT = httpx.Timeout(10.0, read=60.0)


def demo(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="A video with people in it.")],
    server: Annotated[str, typer.Option(metavar="URL", help="The running server.", envvar="FACE_SERVER_URL")] = "http://127.0.0.1:18081",
    key: Annotated[str, typer.Option(help="API key, where the server asks for one.", envvar="FACE_SERVER_KEY", show_default=False)] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the demo camera, 0 for a free one.")] = 18082,
) -> None:
    """Play a video file in a loop as if it were a camera, and print who the server sees on it until Ctrl-C.

    The camera listens on this machine only, so the server has to run here too.
    """
    headers = {"x-api-key": key} if key else {}
    try:
        asyncio.run(_demo(file, server.rstrip("/"), headers, port))
    except asyncio.CancelledError:
        # Asked to end, and the stream is removed.
        return
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the address of the server is no URL: {error}") from error


async def _demo(file: Path, server: str, headers: dict[str, str], port: int) -> None:
    # A terminal that is closed, or `kill`, must not leave a stream behind whose camera is gone.
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    camera = DemoCamera(file, "127.0.0.1", port)
    await camera.start()
    try:
        async with (
            httpx.AsyncClient(base_url=server, headers=headers, timeout=_TIMEOUT) as client,
            _registered(client, file, camera.url) as (name, cursor),
        ):
            out.print(f"{file.name} is a camera now: {camera.url}", style="bold green")
            out.print(f"  watch     {server}/v1/streams/{name}/preview.mjpeg")
            out.print(f"  status    {server}/v1/streams/{name}")
            out.print(f"  events    curl -N -H 'accept: text/event-stream' {server}/v1/events")
            out.print("  Ctrl-C ends the camera and removes its stream.")
            async for event in _events(client, name, cursor):
                out.print(_line(event))
    finally:
        await camera.stop()


@asynccontextmanager
async def _registered(client: httpx.AsyncClient, file: Path, url: str) -> AsyncIterator[tuple[str, int]]:
    """The id of a stream of the server that watches ``url`` for as long as the block lasts, and the last event before it."""
    name = "demo-" + re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem)[:50]
    settings = {"url": url, "name": f"Demo: {file.stem}"[:200], "rules": {"realert_on_return": True}}
    newest = _checked(await _sent(client.get("/v1/events", params={"limit": 1})))["events"]
    _checked(await _sent(client.put(f"/v1/streams/{name}", json=settings)))
    try:
        yield name, newest[0]["cursor"] if newest else 0
    finally:
        try:
            await client.delete(f"/v1/streams/{name}")
        except httpx.HTTPError:
            err.print(f"the server is gone; its stream {name} is still registered", style="yellow")


async def _events(client: httpx.AsyncClient, name: str, cursor: int) -> AsyncIterator[dict[str, Any]]:
    """What happens on the stream after ``cursor``, for as long as the server runs."""
    reason = "it was shut down"
    try:
        query: dict[str, str | int] = {"stream": name, "after": cursor}
        async with client.stream("GET", "/v1/events", params=query, headers={"accept": "text/event-stream"}) as answer:
            if answer.is_error:
                await answer.aread()
                _checked(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield orjson.loads(line.removeprefix("data: "))
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
    raise ConfigurationError(f"the server ended the connection: {reason}")


async def _sent(request: Awaitable[httpx.Response]) -> httpx.Response:
    try:
        return await request
    except httpx.HTTPError as error:
        raise ConfigurationError(f"no server answers ({error}); start one with `make run` or `face-server serve`") from error


def _checked(answer: httpx.Response) -> Any:
    """The body of an answer. Raises ConfigurationError with what the server says against the request."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ConfigurationError(f"{answer.url.copy_with(query=None)} is no face_server: it answered {answer.status_code}")
    if answer.is_error:
        raise ConfigurationError(f"the server refused the stream: {body.get('detail', answer.status_code)}")
    return body


def _line(event: dict[str, Any]) -> str:
    who = event.get("who")
    subject = f"{who['name']} ({who['similarity']:.2f})" if who else ""
    return f"{event['at'][11:19]}  {event['kind'].replace('_', ' '):<16}  {subject}{event['message'] if not who else ''}"

"""A parent with workers that answer HTTP requests with their number and process id; for tests of how they live and end.

Started as "PORT COUNT HOW" it is the parent, and prints its port; with "--as-worker PLACE" behind that it is a worker. HOW is
"well", "fails" (the first worker ends with code 7 before it serves), or "dies" (worker 1 ends with code 9 soon after it serves).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from functools import partial

import uvicorn

from face_server.commands.worker_processes import Place, WorkerProcesses, WorkersOptions, report_ready

OPTIONS = WorkersOptions(grace_s=3.0, first_pause_s=0.1, last_pause_s=0.4, well_s=5.0)


async def answer(place, scope, receive, send) -> None:
    """Say who this is, after a moment if asked so."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.7)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"{place.number} {os.getpid()}".encode()})


async def work(place: Place, how: str) -> None:
    """One worker."""
    if how == "fails" and place.number == 0:
        os.write(2, b"cannot start\n")
        os._exit(7)
    server = uvicorn.Server(uvicorn.Config(partial(answer, place), interface="asgi3", lifespan="off", log_level="warning"))
    link = asyncio.create_task(report_ready(place, lambda: setattr(server, "should_exit", True)))
    if how == "dies" and place.number == 1:
        asyncio.get_running_loop().call_later(0.1, os._exit, 9)
    await server.serve(sockets=[place.listening()])
    link.cancel()


def leave(_number: int, _frame: object) -> None:
    """End as the real one does."""
    raise SystemExit(0)


def main() -> None:
    """Be a parent or a worker."""
    port, count, how, *more = sys.argv[1:]
    if more:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        asyncio.run(work(Place.parse(more[1]), how))
        return
    logging.basicConfig(stream=sys.stderr)
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        os.write(1, f"{listener.getsockname()[1]}\n".encode())

        def line(place: Place) -> list[str]:
            return [sys.executable, __file__, *sys.argv[1:4], "--as-worker", str(place)]

        raise SystemExit(asyncio.run(WorkerProcesses(line, int(count), listener, OPTIONS).run()))


if __name__ == "__main__":
    main()

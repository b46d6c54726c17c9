"""The sample receivers in docs/receivers, run as their readers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from face_server.clock import SystemClock
from face_server.domain.events import EventKind
from face_server.domain.streams import SinkKind, SinkSpec
from face_server.errors import DeliveryRefused
from face_server.sinks.opening import SinkOpener
from face_server.workers import Workers
from tests.sinks.receivers import event

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "receivers"

Start = Callable[..., tuple[IO[str], int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a receiver on a free port; gives what it prints, and the port."""
    with ExitStack() as stack:

        def run(name: str, **variables: str) -> tuple[IO[str], int]:
            line = [sys.executable, "-W", "error", str(FOLDER / name), "0"]
            process = stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | variables))
            stack.callback(process.kill)
            assert process.stdout is not None
            greeting = process.stdout.readline()
            port = re.fullmatch(r"receiving on port (\d+)\n", greeting)
            assert port is not None, greeting
            return process.stdout, int(port[1])

        yield run


@pytest.fixture
def opener(workers: Workers) -> Iterator[SinkOpener]:
    """Opens sinks."""
    opened = SinkOpener(workers, SystemClock())
    yield opened
    opened.close()


async def test_the_grpc_receiver(start: Start, opener: SinkOpener) -> None:
    """It prints who passed by, with name, box and pictures."""
    printed, port = start("grpc_receiver.py")
    sink = opener.open(SinkSpec(SinkKind.GRPC, f"localhost:{port}"))
    await sink.deliver(event(1, frame_picture=""), {"best": b"x" * 30})
    await sink.close()
    assert printed.readline() == "stream door: 张三 经过\n"
    assert printed.readline() == "  new 张三 0.71 at [100.0, 50.0, 180.0, 150.0], 30 bytes of JPEG\n"
    assert printed.readline() == "  frame: 0 bytes of JPEG\n"


async def test_the_webhook_receiver(start: Start, opener: SinkOpener) -> None:
    """It prints what is signed with its secret, once, and refuses the rest."""
    printed, port = start("webhook_receiver.py", SECRET="shared")
    address = f"http://127.0.0.1:{port}/"
    for secret in ("wrong", ""):
        stranger = opener.open(SinkSpec(SinkKind.WEBHOOK, address, secret=secret))
        with pytest.raises(DeliveryRefused, match="401"):
            await stranger.deliver(event(1), {})
        await stranger.close()
    sink = opener.open(SinkSpec(SinkKind.WEBHOOK, address, secret="shared"))
    for one in (event(2), event(2), event(3, EventKind.STREAM_LOST)):
        await sink.deliver(one, {})
    await sink.close()
    assert printed.readline() == "2023-11-14T22:13:22.500+00:00 person_seen on door: number 2\n"
    assert printed.readline() == "2023-11-14T22:13:23.500+00:00 stream_lost on door: number 3\n"

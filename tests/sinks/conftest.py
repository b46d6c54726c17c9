"""What tests of sinks share."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from face_server.clock import SystemClock
from face_server.sinks.opening import SinkOpener, SinkOptions
from face_server.workers import Workers

Opening = Callable[..., SinkOpener]


@pytest.fixture
def opening(workers: Workers) -> Iterator[Opening]:
    """Makes openers with options of ``SinkOptions``; deliveries time out after two seconds."""
    opened: list[SinkOpener] = []

    def make(**options: object) -> SinkOpener:
        opened.append(SinkOpener(workers, SystemClock(), SinkOptions(**({"timeout_s": 2.0} | options))))
        return opened[-1]

    yield make
    for opener in opened:
        opener.close()


@pytest.fixture
def opener(opening: Opening) -> SinkOpener:
    """An opener with the usual options."""
    return opening()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of the tests."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """The side of a server called localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context

"""How a Triton server is reached and how much may be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from face_server.errors import ConfigurationError


class SharedMemory(StrEnum):
    """How tensors reach a server on the same host.

    ``auto`` takes system shared memory where the server sees this host's, else the network;
    ``system`` and ``cuda`` insist.
    """

    AUTO = "auto"
    SYSTEM = "system"
    CUDA = "cuda"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """``endpoints`` are host:port, tried side by side; ``timeout_s`` bounds one call, retries included.

    ``max_concurrent`` calls are under way at a time, ``max_waiting`` more may wait for their turn.
    ``tls`` verifies the server by ``ca_file`` or the system's authorities; ``certificate_file`` and
    ``key_file`` identify this side. ``headers`` go with every call and are never logged.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:8001",)
    timeout_s: float = 10.0
    connect_timeout_s: float = 2.0
    max_concurrent: int = 64
    max_waiting: int = 256
    shared_memory: SharedMemory = SharedMemory.AUTO
    shared_memory_bytes: int = 256 * 1024 * 1024
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ConfigurationError("a Triton backend needs at least one endpoint")
        for endpoint in self.endpoints:
            host, colon, port = endpoint.rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
                raise ConfigurationError(f"{endpoint!r} is no endpoint of a Triton server: write host:port")
        if not self.tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ConfigurationError("certificate files of the Triton backend mean nothing without tls")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigurationError("the Triton backend needs certificate and key together")

"""How a Triton server is reached and how much may be asked of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from face_server.errors import ConfigurationError

_HOST: Final = re.compile(r"[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?\]")
_HEADER: Final = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


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

    ``connect_timeout_s`` bounds everything but inference: connecting, health probes, the comparison
    of contracts. Every ``probe_interval_s`` a server is asked whether it lives; one that does not
    answer, or fails ``failures_to_open`` calls in a row, is left alone for ``pause_s``, then for
    longer, at most ``max_pause_s``, until a probe succeeds.
    ``max_concurrent`` calls are under way at a time, ``max_waiting`` more may wait for their turn.
    ``shared_memory_bytes`` bounds the memory of this process that servers map; a call that finds
    none free sends its tensors, in a message of at most ``max_message_bytes``.
    ``tls`` verifies the server by ``ca_file`` or the system's authorities; ``certificate_file`` and
    ``key_file`` identify this side. ``headers`` go with every call and are never logged.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:8001",)
    timeout_s: float = 10.0
    connect_timeout_s: float = 2.0
    probe_interval_s: float = 2.0
    failures_to_open: int = 3
    pause_s: float = 0.5
    max_pause_s: float = 5.0
    keepalive_s: float = 20.0
    max_concurrent: int = 64
    max_waiting: int = 256
    max_message_bytes: int = 256 * 1024 * 1024
    shared_memory: SharedMemory = SharedMemory.AUTO
    shared_memory_bytes: int = 256 * 1024 * 1024
    cuda_device: int = 0
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ConfigurationError("a Triton backend needs at least one endpoint")
        for endpoint in self.endpoints:
            host, _, port = endpoint.rpartition(":")
            if "@" in endpoint:
                # Addresses are part of logs and errors; this one is not repeated.
                raise ConfigurationError(
                    "an endpoint of the Triton backend holds credentials: write host:port; there are headers and certificates"
                )
            if not (_HOST.fullmatch(host) and port.isdecimal() and 0 < int(port) < 1 << 16):
                raise ConfigurationError(f"{endpoint!r} is no endpoint of a Triton server: write host:port")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ConfigurationError(f"an endpoint of the Triton backend is named twice: {', '.join(self.endpoints)}")
        if min(self.timeout_s, self.connect_timeout_s, self.probe_interval_s, self.pause_s, self.keepalive_s) <= 0:
            raise ConfigurationError("the times of the Triton backend must be above 0 seconds")
        if min(self.max_concurrent, self.failures_to_open) < 1 or self.max_waiting < 0:
            raise ConfigurationError("the Triton backend must be allowed at least one call at a time, and one failure")
        if not self.tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ConfigurationError("certificate files of the Triton backend mean nothing without tls")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigurationError("the Triton backend needs certificate and key together")
        for name, value in self.headers.items():
            # The value may be a secret: it is not repeated.
            if not _HEADER.fullmatch(name.lower()) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigurationError(f"the header {name!r} cannot be sent with gRPC calls: name and value must be plain ASCII text")

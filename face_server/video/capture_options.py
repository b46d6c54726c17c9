"""What an operator allows cameras to be, and how long they may keep us waiting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from face_server.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How sources are opened and read.

    ``open_timeout_s`` bounds connecting, ``read_timeout_s`` how long a live source may give no
    picture. ``staleness_s`` is how far decoding may lag before it skips to a keyframe. Local files
    are read from ``media_folders`` only (none: no files at all), ``/dev/video*`` only with
    ``allow_devices``, and loopback addresses only with ``allow_loopback``. ``realtime`` plays
    recorded files at the pace of their time stamps, as a camera would, instead of as fast as the
    reader takes them. ``max_abandoned`` bounds the threads that hang in a dead connection after it
    was given up.
    """

    open_timeout_s: float = 5.0
    read_timeout_s: float = 4.0
    staleness_s: float = 0.5
    media_folders: tuple[Path, ...] = ()
    allow_devices: bool = False
    allow_loopback: bool = True
    realtime: bool = False
    max_abandoned: int = 32

    def __post_init__(self) -> None:
        for name in ("open_timeout_s", "read_timeout_s", "staleness_s"):
            if not 0.0 < getattr(self, name) <= 60.0:
                raise ConfigurationError(f"{name} of cameras must be above 0 and at most 60 seconds, got {getattr(self, name)}")
        if self.max_abandoned < 1:
            raise ConfigurationError(f"max_abandoned of cameras must be at least 1, got {self.max_abandoned}")

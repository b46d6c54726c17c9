"""How much a journal keeps."""

from __future__ import annotations

from dataclasses import dataclass

from face_server.errors import InvalidInput

MAX_PAGE = 1_000
MAX_ERROR = 500
"""Of the reason why a delivery failed, so many characters are kept."""


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """The bounds of a journal.

    Beyond ``max_events``, ``retention_days`` (0: for ever) or ``max_picture_bytes`` the oldest events
    go with their pictures; those that still wait for delivery go last. Beyond
    ``max_pending_per_lane`` the oldest deliveries of a lane become dead letters, beyond
    ``max_dead_letters`` the oldest of those are erased. ``busy_timeout_s`` is how long another
    process may hold the file, ``max_bytes`` bounds its size (0: only the disk does), and beyond
    ``max_waiting_writes`` more changes are refused.
    """

    max_streams: int = 1_000
    max_events: int = 200_000
    retention_days: float = 30.0
    max_picture_bytes: int = 4 * 1024**3
    max_pending_per_lane: int = 10_000
    max_dead_letters: int = 10_000
    busy_timeout_s: float = 10.0
    max_bytes: int = 0
    max_waiting_writes: int = 256


def check_limit(limit: int) -> None:
    """Raise InvalidInput for a page that is too large, or none."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit must be 1 to {MAX_PAGE}, got {limit}", field="limit")

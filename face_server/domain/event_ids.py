"""Ids of events and pictures that sort by time."""

from __future__ import annotations

import itertools
import secrets

_counter = itertools.count(secrets.randbelow(0x8000))


def new_event_id(now: float) -> str:
    """A fresh id: 32 hex digits that sort by ``now`` (Unix seconds), then by the order of calls.

    48 bits of milliseconds as in RFC 9562 version 7, 16 bits that count up within the process, 64
    random bits.
    """
    return f"{int(now * 1000) & 0xFFFFFFFFFFFF:012x}{next(_counter) & 0xFFFF:04x}{secrets.token_hex(8)}"

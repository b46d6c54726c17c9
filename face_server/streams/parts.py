"""What a stream is made of; the composition root chooses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from face_server.domain.image import Pixels
from face_server.domain.stream_ports import DrawScene, OpenSource, OpenView, OpenWatcher
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.workers import Workers

PublishEvents = Callable[[StreamSpec, Look], Awaitable[None]]
"""Stores the events of a look and hands them to the sinks of the stream. Unavailable may be tried again."""

WasLost = Callable[[str], Awaitable[bool]]
"""Whether the last that was stored of a stream's camera is that it gives no more pictures."""

DrawCard = Callable[[int, int, str, float | None], Pixels]
"""Draws a picture of width × height that says that the named camera is away, since a Unix second if known."""


@dataclass(frozen=True, slots=True)
class StreamParts:
    """The adapters that streams work with.

    ``open_view`` is None where nothing can be published, ``was_lost`` where nobody remembers. ``draw`` and ``draw_card`` run in
    ``workers``; ``encode`` makes JPEG bytes of H×W×3 BGR pixels.
    """

    open_source: OpenSource
    open_watcher: OpenWatcher
    publish_events: PublishEvents
    draw: DrawScene
    draw_card: DrawCard
    encode: Callable[[Pixels], Awaitable[bytes]]
    workers: Workers
    open_view: OpenView | None = None
    was_lost: WasLost | None = None

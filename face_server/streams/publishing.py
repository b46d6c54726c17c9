"""The moving picture of a stream that is pushed out while its rules say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from face_server.domain.frame import Frame
from face_server.domain.stream_ports import LiveView, OpenView
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import SeenTrack
from face_server.errors import FaceServerError
from face_server.streams.patience import Leftovers

CLOSE_S = 1.8

_log = logging.getLogger(__name__)


class Publishing:
    """Holds a ``LiveView`` open from switching on to switching off, whatever the camera does meanwhile."""

    def __init__(self, open_view: OpenView | None, leftovers: Leftovers) -> None:
        self._open_view = open_view
        self._leftovers = leftovers
        self._view: LiveView | None = None
        self._wanted: StreamSpec | None = None
        self._shown: StreamSpec | None = None
        self._refusal = ""
        self._turn = asyncio.Lock()

    @property
    def state(self) -> str:
        """One word for a push that works ("publishing"), else why not; empty where nobody asked for it."""
        return self._view.state if self._view is not None else self._refusal

    def take(self, frame: Frame) -> None:
        """A new frame; called in the thread of the source."""
        view = self._view
        if view is not None:
            view.take(frame)

    def show(self, tracks: Sequence[SeenTrack], frame: Frame) -> None:
        """Who to mark from now on."""
        if self._view is not None:
            self._view.show(tracks, frame)

    def want(self, spec: StreamSpec) -> None:
        """Be open or closed as ``spec`` says, once ``settle`` has run."""
        self._wanted = spec if spec.rules.publish else None

    async def settle(self) -> None:
        """Make it so. A push with another name or rate is begun anew."""
        async with self._turn:
            while not _same(self._wanted, self._shown):
                view, self._view, self._shown = self._view, None, None
                if view is not None:
                    await self._leftovers.end([], CLOSE_S, closing=[view.close()])
                # What is wanted may have changed meanwhile.
                self._open(self._wanted)
            self._shown = self._wanted

    async def close(self) -> None:
        """Stop to push."""
        self._wanted = None
        await self.settle()

    def _open(self, spec: StreamSpec | None) -> None:
        self._refusal, self._shown = "", spec
        if spec is None:
            return
        if self._open_view is None:
            self._refusal = "this server has no address to publish to"
            return
        try:
            self._view = self._open_view(spec)
        except FaceServerError as error:
            self._refusal = error.message
            _log.warning("stream %s is not published: %s", spec.id, error)
        except Exception:  # noqa: BLE001 - a bug in publishing must not keep the stream from being watched
            self._refusal = "internal error"
            _log.exception("stream %s is not published", spec.id)


def _same(one: StreamSpec | None, other: StreamSpec | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.name, one.rules.publish_fps) == (other.name, other.rules.publish_fps)

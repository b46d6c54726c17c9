"""The seams of what outlives a request: sources of frames, the journal, sinks, and who runs streams.

Like ``domain.ports``: one suite of contract tests for each, errors of ``face_server.errors`` only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from face_server.domain.events import DeadLetter, Delivery, Event, EventFilter, Lane, Picture
from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.image import Pixels
from face_server.domain.replicas import Claim, Hold, Meeting, ReplicaNote, Standing
from face_server.domain.streams import StreamSpec, StreamStatus
from face_server.domain.tracks import Look, SeenTrack

TakeFrame = Callable[[Frame], None]


class FrameSource(Protocol):
    """One connection to a camera or file. Made for one use: a new attempt takes a new source."""

    async def open(self, take: TakeFrame) -> SourceInfo:
        """Connect, and from then on call ``take`` with every decoded frame, from a thread of its own.

        ``take`` returns at once for cameras; for files it may block, which holds the file back.
        Raises SourceFailed within the open timeout.
        """
        ...

    async def ended(self) -> None:
        """Wait until the source has ended: returns at the end of a file, raises SourceFailed otherwise.

        A live source that delivers nothing for the read timeout has failed.
        """
        ...

    async def close(self) -> None:
        """Let go within a second, whatever the camera does; no frame is taken afterwards. Idempotent."""
        ...


class Watcher(Protocol):
    """The eyes of one stream: frames in, tracks and events out. Keeps its memory across reconnects."""

    async def look(self, frame: Frame) -> Look:
        """Analyse one frame. Frames come in order of ``captured_at``, one at a time."""
        ...

    async def pass_time(self) -> Look:
        """What the passing of time alone brings (somebody left); called while no frames come."""
        ...

    def change(self, spec: StreamSpec) -> None:
        """Watch under other rules and collections from the next frame on; tracks go on."""
        ...

    def leave(self) -> Look:
        """Nobody looks any more: whoever was here has left when they were last seen. Returns at once, also during a look that hangs."""
        ...

    @property
    def problem(self) -> str:
        """Why recognition is incomplete at the moment, as a sentence without addresses; empty if it is not."""
        ...


class LiveView(Protocol):
    """A moving picture of a stream that is drawn and sent out for as long as it is open (RTMP, RTSP)."""

    def take(self, frame: Frame) -> None:
        """A new frame of the source. Called from its thread; returns at once."""
        ...

    def show(self, tracks: Sequence[SeenTrack], frame: Frame) -> None:
        """Who to mark on frames from now on, as seen on ``frame``. Returns at once."""
        ...

    @property
    def state(self) -> str:
        """The word `publishing`, or a short reason why not; without addresses."""
        ...

    async def close(self) -> None:
        """Stop within 2 s. Idempotent."""
        ...


DrawScene = Callable[[Pixels, Sequence[SeenTrack], str], Pixels]
"""Draws tracks (in the pixels given) and a footer line onto a copy of H×W×3 BGR pixels. Blocks for milliseconds."""


class Journal(Protocol):
    """What must survive a restart besides templates: streams, events and their outbox.

    Unknown ids raise NotFound, clashes Conflict, a full disk or a locked file Unavailable.
    """

    async def streams(self) -> list[StreamSpec]:
        """All stream specs, in the order in which they were added."""
        ...

    async def add_stream(self, spec: StreamSpec) -> None:
        """Store a new spec; Conflict if its id is taken."""
        ...

    async def replace_stream(self, spec: StreamSpec) -> None:
        """Store the spec in place of the one with its id."""
        ...

    async def remove_stream(self, stream_id: str) -> None:
        """Forget a spec. Its events stay; its undelivered ones become dead letters."""
        ...

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """Store events, their pictures, and one delivery for each sink key of ``sinks[event.id]``: all or nothing.

        Returns the events with their cursors. An event whose id is stored already is left as it is.
        """
        ...

    async def events(self, *, after: int = 0, before: int | None = None, limit: int = 100, where: EventFilter | None = None) -> list[Event]:
        """Events with cursor > ``after``, oldest first; with ``before``, those with cursor < ``before``, newest first."""
        ...

    async def event(self, event_id: str) -> Event:
        """One event."""
        ...

    async def picture(self, picture_id: str) -> bytes:
        """The JPEG bytes of a picture. NotFound once its event was pruned."""
        ...

    async def name_stranger(self, stranger_id: str, *, name: str, collection: str = "", identity_id: str = "", into: str = "") -> int:
        """Let past events follow: a stranger became an identity, or was merged ``into`` another. Returns how many."""
        ...

    @property
    def revisit_s(self) -> float:
        """How often to look for lanes that another process has filled or left."""
        ...

    async def lanes(self, *, free: bool = False) -> list[Lane]:
        """Every lane with something to deliver; with ``free`` only those that no other replica owns."""
        ...

    async def claim(self, lane: Lane) -> bool:
        """Own a lane, or go on owning it: asked before each delivery. False if another replica owns it, or nothing waits in it.

        Of several replicas one at a time owns a lane; that of a replica which vanished is free within
        seconds. A journal of one process owns every lane.
        """
        ...

    async def release(self, lane: Lane) -> bool:
        """Own a lane no longer, now that it is empty. False if something waits in it again: then it stays one's own."""
        ...

    async def pending(self, lane: Lane, *, after: int = 0, limit: int = 16) -> list[Delivery]:
        """The oldest deliveries of a lane with id > ``after``, in order."""
        ...

    async def delivered(self, delivery_id: int) -> None:
        """Take a delivery out of the outbox."""
        ...

    async def failed(self, delivery_id: int, error: str) -> None:
        """Count a failed attempt; the delivery stays the first of its lane."""
        ...

    async def bury(self, delivery_id: int, error: str) -> None:
        """Give a delivery up: it becomes a dead letter."""
        ...

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that were given up, by id."""
        ...

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """Queue dead letters again, at the end of their lanes; those of removed streams raise Conflict. Returns how many."""
        ...

    async def discard(self, letter_ids: Sequence[int]) -> int:
        """Erase dead letters. Returns how many there were."""
        ...

    async def prune(self) -> int:
        """Erase what is beyond the retention (age, number, bytes of pictures). Returns how many events went."""
        ...

    async def close(self) -> None:
        """Flush and release. Idempotent."""
        ...


class EventSink(Protocol):
    """One destination of events."""

    @property
    def wants_pictures(self) -> bool:
        """Whether ``deliver`` needs the pictures of an event."""
        ...

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Hand over one event; return when the receiver has it. ``pictures`` are JPEG bytes by picture id.

        Raises Unavailable when it may be tried again, DeliveryRefused when it never will work. Ends
        within the sink's deadline.
        """
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


class StreamRunner(Protocol):
    """Who runs streams: supervised tasks in this process, or on a cluster.

    Unknown ids raise NotFound.
    """

    async def start(self, spec: StreamSpec) -> None:
        """Run a stream, or take over the changed spec of one that runs. Returns before it is connected.

        Raises Overloaded beyond the limit of streams.
        """
        ...

    async def stop(self, stream_id: str) -> None:
        """Stop within 2 s, from every state; the stream stays known as stopped."""
        ...

    async def forget(self, stream_id: str) -> None:
        """Stop, and know it no more."""
        ...

    async def restart(self, stream_id: str) -> None:
        """Connect anew at once, whatever it does now."""
        ...

    def status(self, stream_id: str) -> StreamStatus:
        """The stream right now."""
        ...

    def statuses(self) -> list[StreamStatus]:
        """Every known stream right now, by id."""
        ...

    async def snapshot(self, stream_id: str, *, annotated: bool = True) -> bytes:
        """The newest frame as JPEG. Unavailable while there is none."""
        ...

    def preview(self, stream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Annotated frames as JPEG, newest first wins, for as long as the block lasts. Overloaded beyond the limit of viewers."""
        ...

    async def close(self) -> None:
        """Stop every stream. Idempotent."""
        ...


class Ownership(Protocol):
    """Who of several replicas runs which stream. One owner a stream at a time, each claim with a larger fencing token.

    All methods raise Unavailable while whoever keeps the claims does not answer; a claim then stays
    with its owner until somebody else could take it.
    """

    @property
    def replica(self) -> str:
        """The id of this replica."""
        ...

    @property
    def shared(self) -> bool:
        """Whether there may be other replicas. Where there are none nothing needs to be renewed, met or followed."""
        ...

    @property
    def lease_s(self) -> float:
        """For how long after its renewal a claim cannot become somebody else's."""
        ...

    async def claim(self, stream_id: str, *, patient: bool = False) -> Claim | None:
        """Take a stream that is new or whose owner let go of it; None if it is somebody's.

        With ``patient`` also one whose owner vanished: whoever says so has watched it being nobody's for a while.
        """
        ...

    async def meet(self, note: ReplicaNote, claims: Sequence[Claim]) -> Meeting:
        """Renew claims, show a note to the others until it is too old, and learn of them. About once a second."""
        ...

    async def holders(self, stream_ids: Sequence[str]) -> Mapping[str, Hold]:
        """Who runs which of these streams."""
        ...

    async def release(self, claim: Claim) -> None:
        """Let go of a stream that does not run here any more. One that is somebody else's stays so."""
        ...

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """When somebody first claimed a stream after ``token``, in Unix seconds of this machine; None if nobody has."""
        ...

    async def announce(self) -> None:
        """Tell the others that the registered streams have changed."""
        ...

    async def ask_restart(self, stream_id: str) -> None:
        """Have whoever runs a stream connect anew."""
        ...

    async def close(self) -> None:
        """Be seen no more. Idempotent."""
        ...


class Fence(Protocol):
    """What a journal asks of whoever runs streams before it takes events of one."""

    def standing(self, stream_id: str) -> Standing:
        """How sure this replica may be that a stream is its own."""
        ...

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """See ``Ownership.superseded_at``."""
        ...


OpenSource = Callable[[str, StreamSpec], FrameSource]
"""A fresh source for a URL of a stream."""

OpenWatcher = Callable[[StreamSpec], Watcher]
"""The eyes of a stream."""

OpenView = Callable[[StreamSpec], LiveView]
"""Starts to publish a stream where its id leads."""

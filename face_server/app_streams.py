"""The part of the composition root that puts streams together: cameras, their journal, their sinks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from face_server.api.services import Cameras
from face_server.app_state import ALONE, Replica
from face_server.domain.events import ALERTS, DEPARTURES, Event, EventFilter, EventKind
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock, Detector, Embedder, Gallery, ImageCodec
from face_server.domain.replicas import Standing
from face_server.domain.strangers import StrangerPolicy
from face_server.domain.stream_ports import Fence, FrameSource, Journal, LiveView, Watcher
from face_server.domain.streams import StreamSpec
from face_server.errors import FaceServerError
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal, Unfenced
from face_server.journal.spool_file import SpoolBounds
from face_server.journal.sqlite import SqliteJournal
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.strangers import StrangerBook
from face_server.pipeline.watching import CameraWatcher, WatchTools
from face_server.redis_connection import Connection
from face_server.settings import Settings
from face_server.sinks.face_callbacks import FaceCallbacks
from face_server.sinks.live import LiveEvents
from face_server.sinks.opening import SinkOpener, SinkOptions, check_sink
from face_server.streams.admittance import Admittance
from face_server.streams.delivery import EventBus
from face_server.streams.lanes import DeliveryOptions
from face_server.streams.owned import OwnedStreams
from face_server.streams.parts import StreamParts
from face_server.streams.peers import HttpPeerViews
from face_server.streams.redis_ownership import RedisOwnership
from face_server.streams.registry import StreamChecks, Streams
from face_server.streams.shared import SharedStreams
from face_server.streams.stream import StreamOptions
from face_server.streams.supervisor import Supervisor, SupervisorOptions
from face_server.streams.tenancy import TenancyOptions
from face_server.streams.viewing import ViewingOptions
from face_server.telemetry import Metrics
from face_server.video.camera_addresses import check_source_url, redact_url
from face_server.video.capture import PyavSource, probe
from face_server.video.capture_options import CaptureOptions
from face_server.video.publish import FfmpegView, PublishOptions
from face_server.video.scene import draw_scene, no_signal_card
from face_server.workers import Workers

_log = logging.getLogger(__name__)

_TIDY_EVERY_S = 3600.0
# How many arrivals and departures of a stream are recalled at its start, and the cursor they are before.
_RECALLED = 200
_NEWEST = 2**63 - 1
# How long a receiver may take to accept a connection when somebody names it for the first time.
_REACH_S = 2.5
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class StreamTools:
    """What streams share with the rest of the service."""

    detector: Detector
    embedder: Embedder
    recognition: Recognition
    gallery: Gallery
    codec: ImageCodec
    workers: Workers
    clock: Clock
    metrics: Metrics
    min_score: float
    redis: Connection | None = None


class _Fence:
    """``Fence`` of a journal that is opened before whoever runs streams is there to be asked."""

    def __init__(self) -> None:
        self._asked: Fence = Unfenced()

    def ask(self, fence: Fence) -> None:
        """From now on ``fence`` knows."""
        self._asked = fence

    def standing(self, stream_id: str) -> Standing:
        """See ``Fence.standing``."""
        return self._asked.standing(stream_id)

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """See ``Fence.superseded_at``."""
        return await self._asked.superseded_at(stream_id, token)


@asynccontextmanager
async def open_streams(settings: Settings, tools: StreamTools, replica: Replica = ALONE) -> AsyncIterator[Cameras]:
    """Every stream that should run here, running, until the block ends.

    Raises ConfigurationError when the journal or its key cannot be used.
    """
    chosen = settings.streams
    async with AsyncExitStack() as stack:
        fence = _Fence()
        journal, shared = await _open_journal(settings, tools, fence, stack)
        policy = StrangerPolicy(capacity=chosen.max_strangers, retention_days=chosen.stranger_days)
        strangers = StrangerBook(tools.gallery, tools.recognition, tools.codec, tools.clock, policy)
        live = LiveEvents(journal)
        stack.callback(live.close)
        opener = await tools.workers.run(SinkOpener, tools.workers, tools.clock, _sink_options(settings))
        stack.callback(opener.close)
        callbacks = FaceCallbacks(opener.callback)
        stack.push_async_callback(callbacks.close)

        def tell(events: Sequence[Event]) -> None:
            for event in events:
                tools.metrics.event(event.kind.value)
            # Where replicas share a journal, listeners are told by it, of all events in their order.
            if shared is None:
                live.tell(events)

        bus = EventBus(journal, opener.open, tools.clock, DeliveryOptions(), tell=tell, count=tools.metrics.delivery)
        stack.push_async_callback(bus.close)
        supervisor = Supervisor(_parts(settings, tools, journal, strangers, bus), tools.clock, _supervisor_options(settings))
        checks = _checks(settings, tools, opener)
        streams: Streams
        keeping: Callable[[], Coroutine[Any, Any, None]] | None = None
        if shared is None or tools.redis is None:
            stack.push_async_callback(supervisor.close)
            streams = Streams(journal, supervisor, bus, tools.clock, checks, max_streams=chosen.max_streams)
        else:
            views = HttpPeerViews()
            stack.push_async_callback(views.close)
            tenancy = TenancyOptions(replica.name, replica.url, chosen.max_streams if replica.runs_streams else 0)
            owned = OwnedStreams(supervisor, RedisOwnership(tools.redis, tools.clock), tools.clock, tenancy, views=views)
            stack.push_async_callback(owned.close)
            fence.ask(owned)
            streams = SharedStreams(journal, owned, bus, tools.clock, checks, announce=owned.announce, max_streams=chosen.max_streams)
            stack.push_async_callback(_cancel, asyncio.create_task(_follow(shared, live), name="events of all replicas"))
            keeping = partial(owned.run, streams.refresh)
        stack.push_async_callback(_cancel, asyncio.create_task(bus.run(), name="deliveries"))
        stack.push_async_callback(_cancel, asyncio.create_task(_tidy(journal, strangers, tools.clock), name="retention"))
        await streams.resume()
        if keeping is not None:
            stack.push_async_callback(_cancel, asyncio.create_task(keeping(), name="streams of all replicas"))
        cameras = Cameras(streams, journal, strangers, bus, live, callbacks, tools.clock)
        if shared is not None and isinstance(journal, SpoolingJournal):
            spool, lasting = journal, shared
            cameras = replace(cameras, spooled=lambda: spool.status.events, journal_problem=lambda: lasting.problem)
        yield cameras


async def _open_journal(settings: Settings, tools: StreamTools, fence: Fence, stack: AsyncExitStack) -> tuple[Journal, RedisJournal | None]:
    """The journal, and the one that replicas share behind it where they do."""
    chosen = settings.streams
    key = chosen.secret_key.get_secret_value()
    if key:
        sealer = Sealer.from_text(key, origin="FACE_SERVER_STREAMS__SECRET_KEY")
    else:
        sealer = await tools.workers.run(Sealer.from_file, settings.secret_file)
    options = JournalOptions(
        max_streams=chosen.max_streams,
        max_events=chosen.max_events,
        retention_days=chosen.retention_days,
        max_picture_bytes=chosen.max_picture_bytes,
        max_pending_per_lane=chosen.max_pending,
    )
    if tools.redis is None:
        alone = await SqliteJournal.open(settings.journal_file, tools.clock, sealer, options)
        stack.push_async_callback(alone.close)
        return alone, None
    shared = await RedisJournal.open(tools.redis, tools.clock, sealer, options, tools.workers)
    stack.push_async_callback(shared.close)
    bounds = SpoolBounds(settings.state.spool_bytes)
    spooling = await SpoolingJournal.open(shared, settings.spool_folder, tools.clock, sealer, bounds, fence=fence)
    stack.push_async_callback(spooling.close)
    return spooling, shared


async def _follow(journal: RedisJournal, live: LiveEvents) -> None:
    """Tell listeners what happens on any replica."""
    async for events in journal.follow():
        live.tell(events)


def _parts(settings: Settings, tools: StreamTools, journal: Journal, strangers: StrangerBook, bus: EventBus) -> StreamParts:
    capture = _capture_options(settings)

    async def was_lost(stream_id: str) -> bool:
        where = EventFilter(streams=(stream_id,), kinds=(EventKind.STREAM_LOST, EventKind.STREAM_RECOVERED))
        return [event.kind for event in await journal.events(before=_NEWEST, limit=1, where=where)] == [EventKind.STREAM_LOST]

    async def recall(stream_id: str) -> Sequence[Event]:
        where = EventFilter(streams=(stream_id,), kinds=tuple(sorted(ALERTS | DEPARTURES)))
        return (await journal.events(before=_NEWEST, limit=_RECALLED, where=where))[::-1]

    watching = WatchTools(
        detector=tools.detector,
        embedder=tools.embedder,
        recognition=tools.recognition,
        gallery=tools.gallery,
        codec=tools.codec,
        workers=tools.workers,
        clock=tools.clock,
        draw=draw_scene,
        strangers=strangers,
        recall=recall,
        min_score=tools.min_score,
    )

    def open_source(url: str, spec: StreamSpec) -> FrameSource:
        return PyavSource(url, capture, tools.clock, transport=spec.transport, mode=spec.rules.mode)

    def open_watcher(spec: StreamSpec) -> Watcher:
        return CameraWatcher(spec, watching)

    async def encode(pixels: Pixels) -> bytes:
        return await tools.codec.encode_jpeg(pixels, quality=85)

    return StreamParts(
        open_source=open_source,
        open_watcher=open_watcher,
        publish_events=bus.publish,
        draw=draw_scene,
        draw_card=no_signal_card,
        encode=encode,
        workers=tools.workers,
        open_view=_view_opener(settings, tools.clock),
        was_lost=was_lost,
    )


def _checks(settings: Settings, tools: StreamTools, opener: SinkOpener) -> StreamChecks:
    capture = _capture_options(settings)
    admittance = Admittance(
        find_collection=tools.gallery.collection,
        reach=partial(opener.reach, timeout_s=_REACH_S),
        publishes=bool(settings.streams.publish_url.get_secret_value()),
    )
    return StreamChecks(
        check_url=lambda url: check_source_url(url, capture),
        check_sink=check_sink,
        redact=redact_url,
        probe=lambda spec: probe(spec.url, capture, tools.clock, transport=spec.transport, mode=spec.rules.mode),
        admit=admittance.admit,
    )


def _view_opener(settings: Settings, clock: Clock) -> Callable[[StreamSpec], LiveView] | None:
    """What pushes a stream to the publishing address, or None where there is none."""
    template = settings.streams.publish_url.get_secret_value()
    if not template:
        return None

    def open_view(spec: StreamSpec) -> LiveView:
        url = template.replace("{id}", quote(spec.id, safe=""))
        options = PublishOptions(title=spec.name or spec.id, fps=spec.rules.publish_fps, ffmpeg=settings.streams.ffmpeg)
        return FfmpegView(url, clock, draw_scene, options)

    return open_view


def _capture_options(settings: Settings) -> CaptureOptions:
    return CaptureOptions(
        media_folders=settings.streams.media,
        allow_devices=settings.streams.allow_devices,
        allow_loopback=settings.host in LOOPBACK,
        realtime=True,
    )


def _sink_options(settings: Settings) -> SinkOptions:
    chosen = settings.streams
    return SinkOptions(ca_file=chosen.ca_file, webhook_pictures=chosen.webhook_pictures, discovery_prefix=chosen.discovery_prefix)


def _supervisor_options(settings: Settings) -> SupervisorOptions:
    viewing = ViewingOptions(max_viewers=settings.streams.max_viewers)
    return SupervisorOptions(settings.streams.max_streams, StreamOptions(viewing=viewing))


async def _tidy(journal: Journal, strangers: StrangerBook, clock: Clock) -> None:
    """Forget, once an hour, what is beyond its retention."""
    while True:
        for forget in (journal.prune, strangers.expire):
            try:
                await forget()
            except FaceServerError as error:
                _log.warning("what is beyond its retention is still there, the next hour tries again: %s", error.message)
            except Exception:  # noqa: BLE001 - the last line of defence of a task that must not end
                _log.exception("what is beyond its retention is still there, the next hour tries again")
        await clock.sleep(_TIDY_EVERY_S)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

"""What the routers work with, built once by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from face_server.domain.access import KeyRing
from face_server.domain.ports import Analyzer, Backend, Clock, Detector, Embedder, Gallery, ImageCodec, Painter
from face_server.domain.stream_ports import Journal
from face_server.pipeline.enrollment import Enrollment
from face_server.pipeline.intake import Intake
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.strangers import StrangerBook
from face_server.sinks.face_callbacks import FaceCallbacks
from face_server.sinks.live import LiveEvents
from face_server.streams.delivery import EventBus
from face_server.streams.registry import Streams
from face_server.workers import Workers


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in use, for people: its name, licence and whether commercial use is allowed."""

    name: str
    task: str
    licence: str
    commercial_use: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults of the HTTP API that the operator may set."""

    collection: str = "default"
    min_score: float = 0.6
    max_size_px: int = 640
    max_faces: int = 100
    max_body_bytes: int = 64 * 1024 * 1024
    max_concurrent_requests: int = 64
    max_waiting_requests: int = 256


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks in use, one by one; ``Services.analyzer`` is both of them."""

    detector: Detector
    embedder: Embedder


@dataclass(frozen=True, slots=True)
class Services:
    """Every collaborator of the HTTP layer.

    ``keys`` is None when requests need no API key (loopback, or told so explicitly).
    ``detector`` and ``embedder`` describe the models in use; ``needed`` are the models that the
    backend must be able to run, by what they are for. ``workers`` take the parsing of large
    bodies and the serialising of large answers off the event loop.
    """

    intake: Intake
    analyzer: Analyzer
    recognition: Recognition
    enrollment: Enrollment
    gallery: Gallery
    codec: ImageCodec
    painter: Painter
    backend: Backend
    networks: Networks
    needed: Mapping[str, str]
    clock: Clock
    workers: Workers
    keys: KeyRing | None
    defaults: Defaults
    detector: ModelInfo
    embedder: ModelInfo
    version: str


@dataclass(frozen=True, slots=True)
class Cameras:
    """The collaborators that only a running server has: its streams, and what they report.

    ``events`` delivers to sinks, ``live`` to whoever listens; ``callbacks`` tells of faces that the
    face server's API added. ``spooled`` says how many events wait on this disk for the journal;
    None where none ever do. ``journal_problem`` is what a shared journal has lost, as a sentence, or empty.
    """

    streams: Streams
    journal: Journal
    strangers: StrangerBook
    events: EventBus
    live: LiveEvents
    callbacks: FaceCallbacks
    clock: Clock
    spooled: Callable[[], int] | None = None
    journal_problem: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Everything behind a server."""

    services: Services
    cameras: Cameras

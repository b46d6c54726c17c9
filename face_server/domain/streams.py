"""A stream as its operator describes it, and as it is right now."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from datetime import datetime, time
from enum import StrEnum
from itertools import combinations
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from face_server.domain.events import ALERTS, EventKind
from face_server.errors import InvalidInput

Point = tuple[float, float]

_ID = re.compile(r"[^\x00-\x1f\x7f/\\?#%]{1,64}")
# Twice the area of a triangle of corners that are on one line but for rounding.
_FLAT = 1e-9
MAX_NAME = 200
MAX_POINTS = 64
MAX_POLYGONS = 16
MAX_COLLECTIONS = 16
MAX_SINKS = 8


class Mode(StrEnum):
    """Who decodes: the processor, or a GPU through OpenCV's cudacodec."""

    CPU = "cpu"
    GPU = "gpu"


class FramePolicy(StrEnum):
    """Which frames are analysed: the newest whenever there is time, every one, or every n-th."""

    NEWEST = "newest"
    EVERY = "every"
    NTH = "nth"


class Transport(StrEnum):
    """How RTSP carries the pictures."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Polygon:
    """A region of the picture: corners in 0..1 of its width and height, in order, not crossing itself."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not 3 <= len(self.points) <= MAX_POINTS:
            raise InvalidInput(f"a polygon needs 3 to {MAX_POINTS} points, got {len(self.points)}", code="invalid_polygon")
        if not all(0.0 <= value <= 1.0 for point in self.points for value in point):
            raise InvalidInput("points of a polygon are shares of width and height: 0 to 1", code="invalid_polygon")
        edges = list(zip(self.points, (*self.points[1:], self.points[0]), strict=True))
        if any(start == end for start, end in edges):
            raise InvalidInput("the polygon has a corner twice in a row; it closes by itself", code="invalid_polygon")
        if all(abs(_side(*edges[0], point)) < _FLAT for point in self.points):
            raise InvalidInput("the polygon has no area: its corners are on one line", code="invalid_polygon")
        last = len(edges) - 1
        for (i, first), (j, second) in combinations(enumerate(edges), 2):
            neighbours = j == i + 1 or (i == 0 and j == last)
            if not neighbours and _cross(*first, *second):
                raise InvalidInput("the polygon crosses itself", code="invalid_polygon")

    def contains(self, x: float, y: float) -> bool:
        """Whether the point (0..1) is inside, by the even-odd rule."""
        inside = False
        for (x1, y1), (x2, y2) in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                inside = not inside
        return inside


def _side(p: Point, q: Point, r: Point) -> float:
    """On which side of the line from ``p`` to ``q`` the point ``r`` is; 0 on it."""
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    return _side(a, b, c) * _side(a, b, d) <= 0 and _side(c, d, a) * _side(c, d, b) <= 0 and a != c


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the week: ``days`` (0 is Monday) from ``begin`` to ``end``; past midnight where end <= begin."""

    days: frozenset[int]
    begin: time
    end: time

    def __post_init__(self) -> None:
        if not self.days or not self.days <= set(range(7)):
            raise InvalidInput("days of a schedule window are 0 (Monday) to 6 (Sunday), at least one", field="rules.schedule")

    def covers(self, moment: datetime) -> bool:
        """Whether the local ``moment`` lies in the window."""
        now, today = moment.time().replace(tzinfo=None), moment.weekday()
        if self.begin < self.end:
            return today in self.days and self.begin <= now < self.end
        return (today in self.days and now >= self.begin) or ((today - 1) % 7 in self.days and now < self.end)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a stream is analysed, in the local time of ``timezone`` (an IANA name)."""

    windows: tuple[Window, ...]
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InvalidInput(f"{self.timezone!r} is no time zone, such as Europe/Paris", field="rules.schedule.timezone") from error

    def covers(self, now: float) -> bool:
        """Whether Unix second ``now`` lies in a window."""
        moment = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        return any(window.covers(moment) for window in self.windows)


_RANGES = {
    "every_nth": (1, 1000),
    "max_fps": (0, 120),
    "detection_size_px": (64, 4096),
    "min_score": (0, 1),
    "min_face_px": (0, 4096),
    "threshold": (-1, 1),
    "margin": (0, 1),
    "embed_budget": (1, 100),
    "realert_s": (0, 7 * 86400),
    "absence_s": (1, 3600),
    "staleness_s": (0.05, 60),
    "publish_fps": (0, 120),
}


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How a stream is watched. Everything may change while it runs.

    ``max_fps`` bounds the analysed frames a second (0: no bound). ``regions`` are where faces count
    (empty: everywhere), ``ignore`` where they do not; a face is where the centre of its box is.
    ``min_face_px`` is the shorter side of the box in source pixels. ``threshold`` and ``margin``
    override those of the collections. ``embed_budget`` is the most embeddings of one track.
    A visit begins when somebody is recognised and ends ``absence_s`` after they were last seen. It
    is announced once; a new visit within ``realert_s`` of the last announcement of the same person
    stays silent unless ``realert_on_return``. ``strangers`` remembers and announces unknown people.
    ``staleness_s`` is how old a live frame may be when its analysis begins. ``publish_fps`` 0 is
    the source's own.
    """

    mode: Mode = Mode.CPU
    frames: FramePolicy = FramePolicy.NEWEST
    every_nth: int = 1
    max_fps: float = 5.0
    detection_size_px: int = 640
    min_score: float | None = None
    regions: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()
    min_face_px: float = 32.0
    threshold: float | None = None
    margin: float | None = None
    embed_budget: int = 8
    realert_s: float = 60.0
    absence_s: float = 5.0
    realert_on_return: bool = False
    strangers: bool = True
    staleness_s: float = 0.5
    schedule: Schedule | None = None
    publish: bool = False
    publish_fps: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InvalidInput(f"{name} must be {low} to {high}, got {value}", field=f"rules.{name}")
        for name in ("regions", "ignore"):
            if len(getattr(self, name)) > MAX_POLYGONS:
                raise InvalidInput(f"{name} may hold {MAX_POLYGONS} polygons", field=f"rules.{name}")

    def watches(self, x: float, y: float) -> bool:
        """Whether a face centred at (x, y), in 0..1 of the picture, counts."""
        wanted = not self.regions or any(region.contains(x, y) for region in self.regions)
        return wanted and not any(region.contains(x, y) for region in self.ignore)


class SinkKind(StrEnum):
    """The ways in which events leave."""

    GRPC = "grpc"
    WEBHOOK = "webhook"
    MQTT = "mqtt"
    REDIS = "redis"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """Where the events of a stream go.

    ``address`` is ``host:port`` (grpc), a URL (webhook; mqtt: ``mqtt[s]://[user:password@]host[:port]``;
    redis: ``redis[s]://…``), or empty (log). ``topic`` is the prefix of MQTT topics or the key of the
    Redis stream. ``secret`` signs webhooks. ``kinds`` are the events that go there (empty: all that
    the sink can carry: the gRPC callback carries alerts, that is who was seen).
    Addresses and secrets are credentials: shown masked, stored encrypted.
    """

    kind: SinkKind
    address: str = ""
    topic: str = ""
    secret: str = field(default="", repr=False)
    tls: bool = False
    kinds: tuple[EventKind, ...] = ()

    @property
    def key(self) -> str:
        """A short name of this destination that reveals nothing: same place, same key."""
        place = "\x00".join((self.kind, self.address, self.topic))
        return f"{self.kind}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"

    def wants(self, kind: EventKind) -> bool:
        """Whether events of this kind go there."""
        return (not self.kinds or kind in self.kinds) and (self.kind is not SinkKind.GRPC or kind in ALERTS)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A supervised camera task as the operator registered it.

    ``url`` is analysed; ``detail_url``, where given, is a larger picture of the same camera from
    which faces are cropped. Both may hold credentials. ``enabled`` says whether it should run.
    ``created_at`` is Unix seconds.
    """

    id: str
    url: str = field(repr=False)
    name: str = ""
    detail_url: str = field(default="", repr=False)
    transport: Transport = Transport.TCP
    collections: tuple[str, ...] = ("default",)
    rules: StreamRules = StreamRules()
    sinks: tuple[SinkSpec, ...] = ()
    enabled: bool = True
    created_at: float = 0.0

    def __post_init__(self) -> None:
        # Clients take "." and ".." out of paths: such a stream could never be named again.
        if not (_ID.fullmatch(self.id) and self.id.isprintable() and self.id.strip(" .")):
            message = "a stream id has 1 to 64 printable characters, without / \\ ? # or %, and more than dots and blanks"
            raise InvalidInput(message, field="id")
        if len(self.name) > MAX_NAME:
            raise InvalidInput(f"a stream name has at most {MAX_NAME} characters", field="name")
        if len(self.collections) > MAX_COLLECTIONS:
            raise InvalidInput(f"a stream matches at most {MAX_COLLECTIONS} collections", field="collections")
        if len(self.sinks) > MAX_SINKS:
            raise InvalidInput(f"a stream has at most {MAX_SINKS} sinks", field="sinks")

    def same_source(self, other: StreamSpec) -> bool:
        """Whether a connection made for the one serves the other."""
        return (self.url, self.detail_url, self.transport, self.rules.mode) == (
            other.url,
            other.detail_url,
            other.transport,
            other.rules.mode,
        )


class StreamState(StrEnum):
    """What a stream does now.

    ``failed`` needs a person (credentials, codec, a missing file) and is retried slowly;
    ``backing_off`` waits for the next attempt; ``stalled`` is connected without frames.
    """

    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    BACKING_OFF = "backing_off"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream right now. Times are Unix seconds, rates a second over the last ten seconds.

    ``reason`` is a sentence without addresses. ``attempts`` counts connections since frames were
    last healthy. Frames: ``decoded`` arrived, ``analysed`` were looked at, ``dropped`` gave way to
    newer ones, ``stale`` were too old. ``latency_s`` is the median from capture to decision of the
    last hundred analysed frames. ``replica`` is the name of the replica that runs it, empty where
    there is only one or none does.
    """

    id: str
    state: StreamState
    since: float
    reason: str = ""
    code: str = ""
    attempts: int = 0
    connected: bool = False
    width: int = 0
    height: int = 0
    codec: str = ""
    source_fps: float = 0.0
    analysed_fps: float = 0.0
    decoded: int = 0
    analysed: int = 0
    dropped: int = 0
    stale: int = 0
    last_frame_age_s: float | None = None
    last_analysed_at: float | None = None
    latency_s: float | None = None
    latency_p95_s: float | None = None
    reconnects: int = 0
    last_error: str = ""
    publishing: str = ""
    viewers: int = 0
    replica: str = ""

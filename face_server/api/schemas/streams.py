"""Streams: what is asked and answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from face_server.api.bodies import RequestModel, ShortModel
from face_server.api.deps import COLLECTION_PATTERN, STREAM_ID_PATTERN
from face_server.domain.streams import MAX_COLLECTIONS, MAX_NAME, MAX_POINTS, MAX_POLYGONS, MAX_SINKS

_URL = "rtsp://admin:secret@192.168.1.20/stream2"
_RULES_EXAMPLE: JsonDict = {"max_fps": 5, "regions": [[[0.1, 0.2], [0.9, 0.2], [0.9, 1.0], [0.1, 1.0]]], "strangers": True, "realert_s": 60}

Share = Annotated[float, Field(ge=0, le=1)]
PointBody = Annotated[list[Share], Field(min_length=2, max_length=2, description="x and y, 0 to 1 of width and height.")]
PolygonBody = Annotated[list[PointBody], Field(min_length=3, max_length=MAX_POINTS, description="Corners in order, not crossing itself.")]
Polygons = Annotated[list[PolygonBody], Field(max_length=MAX_POLYGONS)]
Kind = Literal["person_seen", "person_left", "stranger_seen", "stranger_left", "stream_lost", "stream_recovered"]
State = Literal["starting", "running", "stalled", "backing_off", "stopped", "failed"]
CollectionNames = Annotated[
    list[Annotated[str, Field(pattern=COLLECTION_PATTERN)]],
    Field(max_length=MAX_COLLECTIONS, description="Collections whose people are recognised.", examples=[["default"]]),
]
StreamName = Annotated[
    str,
    Field(max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people.", examples=["Entrance"]),
]
SourceUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="rtsp(s), rtmp(s), http(s) (MJPEG, HLS, MPEG-TS), a file of an allowed folder, or `/dev/videoN`. "
        "Credentials in it are stored encrypted and shown as `***`.",
        examples=[_URL],
    ),
]


class WindowBody(RequestModel):
    """A stretch of the week."""

    days: list[Annotated[int, Field(ge=0, le=6)]] = Field(min_length=1, max_length=7, description="0 is Monday, 6 is Sunday.")
    begin: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="Local time, `HH:MM`.", examples=["22:00"])
    end: str = Field(
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="`HH:MM`; at or before `begin` it is on the next day.", examples=["06:00"]
    )


class ScheduleBody(RequestModel):
    """When a stream is analysed."""

    windows: list[WindowBody] = Field(min_length=1, max_length=32)
    timezone: str = Field("UTC", max_length=64, description="IANA name.", examples=["Europe/Paris"])


class RulesBody(RequestModel):
    """How a stream is watched. Members left out take their default."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RULES_EXAMPLE]})

    mode: Literal["cpu", "gpu"] = Field("cpu", description="Who decodes; `gpu` needs an OpenCV build with cudacodec.")
    frames: Literal["newest", "every", "nth"] = Field("newest", description="Which frames are analysed.")
    every_nth: int = Field(1, ge=1, le=1000, description="With `frames: nth`: each n-th frame.")
    max_fps: float = Field(5.0, ge=0, le=120, description="Most analysed frames a second; 0 for no bound.")
    detection_size_px: int = Field(640, ge=64, le=4096, description="Frames are scaled down to this long side before detection.")
    min_score: Share | None = Field(None, description="Detections below are dropped; the detector's default if null.")
    regions: Polygons = Field(default=[], description="Where faces count; everywhere if empty.")
    ignore: Polygons = Field(default=[], description="Where faces do not count.")
    min_face_px: float = Field(32.0, ge=0, le=4096, description="Shorter side of the face's box in source pixels.")
    threshold: float | None = Field(None, ge=-1, le=1, description="Overrides the threshold of the collections.")
    margin: float | None = Field(None, ge=0, le=1, description="Overrides the margin of the collections.")
    embed_budget: int = Field(8, ge=1, le=100, description="Most embeddings of one track.")
    realert_s: float = Field(60.0, ge=0, le=604800, description="Somebody is not announced again within this time.")
    absence_s: float = Field(5.0, ge=1, le=3600, description="A visit ends when somebody was not seen for this long.")
    realert_on_return: bool = Field(False, description="Announce each new visit at once, whatever `realert_s` says.")
    strangers: bool = Field(True, description="Remember and announce unknown people.")
    staleness_s: float = Field(0.5, ge=0.05, le=60, description="Older live frames are dropped instead of analysed.")
    schedule: ScheduleBody | None = Field(None, description="When to analyse; always if null.")
    publish: bool = Field(False, description="Push the annotated video to the server's publishing address.")
    publish_fps: float = Field(0.0, ge=0, le=120, description="Frames a second of the pushed video; 0 for the source's own.")


class SinkBody(RequestModel):
    """Where the events of a stream go."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "webhook", "address": "https://example.org/faces", "secret": "shared secret"}]}
    )

    kind: Literal["grpc", "webhook", "mqtt", "redis", "log"]
    address: str = Field(
        "",
        max_length=2048,
        description="grpc: `host:port`; webhook: http(s) URL; mqtt: `mqtt[s]://[user:password@]host[:port]`; "
        "redis: `redis[s]://…`; log: empty.",
    )
    topic: str = Field("", max_length=256, description="Prefix of MQTT topics, or key of the Redis stream.")
    secret: str = Field(
        "", max_length=256, description="Signs webhooks (HMAC-SHA256). Never shown again; `***` keeps the one that is stored."
    )
    tls: bool = Field(False, description="grpc: use TLS.")
    events: list[Kind] = Field(default=[], max_length=6, description="Kinds of events that go there; all if empty.")


Sinks = Annotated[list[SinkBody], Field(max_length=MAX_SINKS)]


class StreamSettings(ShortModel):
    """A stream as it should be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": _URL, "name": "Entrance", "rules": _RULES_EXAMPLE}]})

    url: SourceUrl
    name: StreamName = ""
    detail_url: str = Field("", max_length=2048, description="A larger picture of the same camera, from which faces are cropped.")
    transport: Literal["tcp", "udp"] = Field("tcp", description="How RTSP carries the pictures.")
    collections: CollectionNames | None = Field(
        None, description="Collections whose people are recognised; the server's default collection if left out."
    )
    rules: RulesBody = RulesBody()
    sinks: Sinks = Field(default=[])
    enabled: bool = Field(True, description="Whether it should run; kept across restarts.")


class StreamRequest(StreamSettings):
    """A new stream."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "entrance", "url": _URL, "rules": _RULES_EXAMPLE}]})

    id: str | None = Field(None, pattern=STREAM_ID_PATTERN, description="Yours, or made up if left out.", examples=["entrance"])


class RulesPatch(RequestModel):
    """Rules to change; members left out stay."""

    model_config = ConfigDict(extra="allow", frozen=True)


class StreamPatch(ShortModel):
    """What to change; members left out stay, also within `rules`. Tracks go on unless the source changes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rules": {"max_fps": 2}}]})

    url: SourceUrl | None = None
    name: StreamName | None = None
    detail_url: str | None = Field(None, max_length=2048)
    transport: Literal["tcp", "udp"] | None = None
    collections: CollectionNames | None = None
    rules: RulesPatch | None = Field(None, description="Members of `RulesBody` to change.")
    sinks: Sinks | None = Field(None, description="Replaces all sinks.")
    enabled: bool | None = None


class ProbeRequest(ShortModel):
    """A source to try."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": _URL}]})

    url: SourceUrl
    transport: Literal["tcp", "udp"] = "tcp"


class PublishRequest(ShortModel):
    """Whether to push the annotated video."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"publish": True}]})

    publish: bool


class ProbeBody(BaseModel):
    """What a source says of itself."""

    width: int
    height: int
    fps: float = Field(description="0 where it does not say.")
    codec: str


class SinkShown(BaseModel):
    """A sink, without its secrets."""

    key: str = Field(description="Name of the destination in dead letters.")
    kind: str
    address: str = Field(description="Credentials are shown as `***`.")
    topic: str
    has_secret: bool
    tls: bool
    events: list[Kind]


class StatusBody(BaseModel):
    """A stream right now."""

    state: State
    since: datetime
    reason: str = Field(description="Why, in a sentence; empty while all is well.")
    code: str = Field(description="Stable name of the reason.", examples=["source_timeout"])
    attempts: int = Field(description="Connections tried since frames were last healthy.")
    connected: bool
    width: int
    height: int
    codec: str
    source_fps: float
    analysed_fps: float
    decoded: int
    analysed: int
    dropped: int = Field(description="Frames that gave way to newer ones.")
    stale: int = Field(description="Frames that were too old to be analysed.")
    last_frame_age_s: float | None
    latency_s: float | None = Field(description="Median from capture to decision.")
    latency_p95_s: float | None
    reconnects: int
    last_error: str
    publishing: str = Field(description="`publishing`, or why not; empty when not asked for.")
    viewers: int
    replica: str = Field(description="Which replica runs it; empty where there is only one, or none does.")


class StreamBody(BaseModel):
    """A stream: what was registered, and how it is."""

    id: str
    name: str
    url: str = Field(description="Credentials are shown as `***`.")
    detail_url: str
    transport: Literal["tcp", "udp"]
    collections: list[str]
    rules: RulesBody
    sinks: list[SinkShown]
    enabled: bool
    created_at: datetime
    status: StatusBody


class StreamList(BaseModel):
    """All streams."""

    streams: list[StreamBody]

"""What the service tells about itself: request ids, log lines and metrics. Never secrets, pictures or embeddings."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Literal, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the HTTP request that this task works for; "-" outside of any."""

_LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LAG_PERIOD_S = 0.02

# Times of creation double the number of series and nobody asks for them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

# What a log line must never hold: credentials in headers, URLs and key=value text, and base64 long
# enough to be a picture or an embedding.
_REDACTIONS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), r"\1 ***"),
    (re.compile(r"(?i)\b(x-api-key|api[-_]?key|authorization|password|passwd|secret|token)(\"?\s*[:=]\s*\"?)[^\s\"',;&]+"), r"\1\2***"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s\"'<>]+"), r"\1://***"),
    (re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}"), "***"),
)


def redact(text: str) -> str:
    """``text`` without credentials, addresses and long base64."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    def formatException(self, ei: object) -> str:  # noqa: N802 - the name is logging's
        return redact(super().formatException(ei))  # type: ignore[arg-type]  # logging's own type is private


class TextFormatter(_Formatter):
    """Lines for people: time, level, logger, request id, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact one record."""
        record.request_id = request_id.get()
        return redact(super().format(record))


class JsonFormatter(_Formatter):
    """One JSON object a line; the ``fields`` of a record (a dict in ``extra``) become members."""

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact one record."""
        line: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": request_id.get(),
            "message": redact(record.getMessage()),
        }
        fields = getattr(record, "fields", {})
        line |= {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str = "info", form: Literal["text", "json"] = "text", stream: TextIO | None = None) -> None:
    """Send the logs of the whole process to ``stream`` (stderr), at ``level`` and above, redacted.

    Replaces what was configured before. The servers' own access logs, which print query strings,
    are silenced in favour of ours.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = name != "uvicorn.access"
    # These log whole URLs at info, or each of their steps.
    for name in ("httpx", "httpcore", "grpc"):
        logging.getLogger(name).setLevel("WARNING")
    # The MQTT client warns once more of each failure that its caller reports.
    logging.getLogger("mqtt").setLevel("ERROR")


class Seldom:
    """Lets the same message be logged once in ``every_s`` seconds: an outage must not fill the disk, whatever the traffic."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s = every_s
        self._logged_s: dict[str, float] = {}

    def is_due(self, message: str, now_s: float) -> bool:
        """Whether ``message`` should be logged at ``now_s`` (of any clock that only goes forward)."""
        if now_s - self._logged_s.get(message, -math.inf) < self._every_s:
            return False
        # What is forgotten is due again anyway.
        self._logged_s = {text: at_s for text, at_s in self._logged_s.items() if now_s - at_s < self._every_s}
        self._logged_s[message] = now_s
        return True


class Metrics:
    """The Prometheus metrics of one service, in a registry of their own.

    Label values come from route templates, network names and short fixed lists: their number does
    not grow with the traffic.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "face_server_http_requests", "Answered HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "face_server_http_request_duration_seconds",
            "From the first byte of the request to the last of the answer.",
            ["method", "route"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._working = Gauge("face_server_http_requests_working", "Requests being worked on.", registry=self.registry)
        self._waiting = Gauge("face_server_http_requests_waiting", "Requests that wait for their turn.", registry=self.registry)
        self._stages = Histogram(
            "face_server_stage_duration_seconds",
            "Time of one picture in a stage: read (download and decoding) or analyze (networks and alignment).",
            ["stage"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._faces = Counter("face_server_faces", "Faces found in pictures.", registry=self.registry)
        self._pictures = Counter("face_server_pictures", "Pictures analysed, by outcome.", ["outcome"], registry=self.registry)
        self._inference = Histogram(
            "face_server_inference_duration_seconds",
            "Time of a network's inferences, by stage: wait (to be gathered into a batch) or run.",
            ["network", "stage"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._batches = Histogram(
            "face_server_inference_batch_size", "Items a run of a network.", ["network"], buckets=_BATCHES, registry=self.registry
        )
        self._queue = Gauge("face_server_inference_queue_depth", "Items that wait for a network.", ["network"], registry=self.registry)
        self._lag = Gauge(
            "face_server_event_loop_lag_seconds", "The event loop's worst lateness since the last scrape.", registry=self.registry
        )
        self._worst_lag_s = 0.0
        self._gallery = Gauge("face_server_gallery_size", "What is stored.", ["kind"], registry=self.registry)
        self._stale = Gauge(
            "face_server_gallery_stale_seconds",
            "For how long searches have been answered from an old copy; 0 while it is current.",
            registry=self.registry,
        )
        self._spooled = Gauge("face_server_spooled_events", "Events that wait on this disk for the journal.", registry=self.registry)
        self._streams = Gauge("face_server_streams", "Registered streams, by state.", ["state"], registry=self.registry)
        self._frames = Gauge(
            "face_server_stream_frames", "Frames of the streams that are registered now, by outcome.", ["outcome"], registry=self.registry
        )
        self._events = Counter("face_server_events", "What happened on streams.", ["kind"], registry=self.registry)
        self._deliveries = Counter("face_server_deliveries", "Attempts to hand over an event.", ["sink", "outcome"], registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; ``route`` is the template of its path."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def admission(self, working: int, waiting: int) -> None:
        """Report how many requests are worked on and wait."""
        self._working.set(working)
        self._waiting.set(waiting)

    def picture(self, *, faces: int, read_s: float, analyze_s: float) -> None:
        """Count a picture that was analysed."""
        self._pictures.labels("ok").inc()
        self._faces.inc(faces)
        self._stages.labels("read").observe(read_s)
        self._stages.labels("analyze").observe(analyze_s)

    def refused_picture(self) -> None:
        """Count a picture that could not be read."""
        self._pictures.labels("refused").inc()

    def inference(self, network: str, stage: Literal["wait", "run"], seconds: float) -> None:
        """Observe one inference of a network: how long it waited, or ran."""
        self._inference.labels(network, stage).observe(seconds)

    def batch(self, network: str, size: int) -> None:
        """Observe how many items one inference of a network held."""
        self._batches.labels(network).observe(size)

    def queue(self, network: str, depth: int) -> None:
        """Report how many items wait for a network."""
        self._queue.labels(network).set(depth)

    def gallery(self, *, collections: int, identities: int, templates: int) -> None:
        """Report what is stored."""
        for kind, count in (("collections", collections), ("identities", identities), ("templates", templates)):
            self._gallery.labels(kind).set(count)

    def stale(self, seconds: float) -> None:
        """Report how old the copy of the gallery may be."""
        self._stale.set(seconds)

    def spooled(self, events: int) -> None:
        """Report how many events wait on this disk."""
        self._spooled.set(events)

    def streams(self, states: Mapping[str, int], frames: Mapping[str, int]) -> None:
        """Report how many streams are in each state, and what became of their frames."""
        for state, count in states.items():
            self._streams.labels(state).set(count)
        for outcome, count in frames.items():
            self._frames.labels(outcome).set(count)

    def event(self, kind: str) -> None:
        """Count something that happened on a stream."""
        self._events.labels(kind).inc()

    def delivery(self, sink: str, outcome: str) -> None:
        """Count an attempt to hand an event to a kind of sink: delivered, failed (to be tried again) or dead."""
        self._deliveries.labels(sink, outcome).inc()

    def lag(self, seconds: float) -> None:
        """Observe how late the event loop was; the worst since the last ``render`` is reported."""
        self._worst_lag_s = max(self._worst_lag_s, seconds)

    def render(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        self._lag.set(self._worst_lag_s)
        self._worst_lag_s = 0.0
        return generate_latest(self.registry)


async def watch_loop_lag(metrics: Metrics) -> None:
    """Measure, until cancelled, how late the event loop wakes a sleeper: whatever blocks it shows here."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_PERIOD_S
        await asyncio.sleep(_LAG_PERIOD_S)
        metrics.lag(loop.time() - due)

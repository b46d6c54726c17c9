"""Everything an operator may set, read once from the environment by the composition root.

``FACE_SERVER_PORT=18081`` sets ``port``; ``FACE_SERVER_IMAGES__MAX_BYTES=1000000`` sets
``images.max_bytes``. A misspelt variable is an error, not a surprise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from face_server.errors import ConfigurationError

ENV_PREFIX = "FACE_SERVER_"

_PUBLISH_URL = re.compile(r"(rtmps?|rtsps?)://[^\s{}]+\{id\}[^\s{}]*")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Words = Annotated[tuple[str, ...], NoDecode]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InferenceSettings(_Section):
    """Who runs the networks and how."""

    backend: Literal["onnx", "openvino", "triton", "triton-pipeline"] = Field(
        "onnx",
        description=(
            "Who runs the networks: `onnx` (ONNX Runtime), `openvino` (extra `openvino`; faster on CPUs with bf16), "
            "`triton` (a Triton server, one call a network) or `triton-pipeline` (a Triton server, one call a picture)."
        ),
    )
    providers: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="Execution providers of ONNX Runtime. What is really in use is reported at `/v1/info`."
    )
    require_gpu: bool = Field(False, description="Refuse to start unless the networks really run on a GPU.")
    precision: Literal["auto", "f32", "bf16"] = Field("auto", description="OpenVINO's arithmetic; `auto` takes bf16 where the CPU has it.")
    workers: int = Field(
        0, ge=0, le=512, description="Worker threads for decoding and inference; 0 takes one more than the available cores."
    )
    max_batch: int = Field(
        0,
        ge=0,
        le=1024,
        description="Largest batch gathered across requests; 0 chooses per backend (1 on CPUs, where batching does not help; 32 on GPUs).",
    )
    max_wait_ms: float = Field(2.0, ge=0, le=1000, description="How long a batch may wait for more work while the network is busy.")


class TritonSettings(_Section):
    """The Triton servers behind the backends `triton` and `triton-pipeline`."""

    endpoints: Words = Field(
        ("127.0.0.1:8001",), description="Their gRPC addresses, host:port, separated by commas; calls are spread over them."
    )
    timeout_s: float = Field(10.0, gt=0, le=300, description="Longest call, retries included, in seconds.")
    max_concurrent: int = Field(64, ge=1, le=4096, description="Calls under way at a time.")
    max_waiting: int = Field(256, ge=0, le=100_000, description="Calls that may wait for their turn; more get 503 with Retry-After.")
    shared_memory: Literal["auto", "system", "cuda", "off"] = Field(
        "auto", description="How tensors reach a server on this host: `auto` takes system shared memory where the server sees it."
    )
    shared_memory_bytes: int = Field(256 * 1024**2, ge=1024**2, description="Most bytes of shared memory; calls beyond go by network.")
    tls: bool = Field(False, description="Whether the servers are spoken to over TLS; they are verified.")
    ca_file: Path | None = Field(None, description="Certificates in PEM that the servers' are signed with, instead of the usual ones.")
    certificate_file: Path | None = Field(None, description="Certificate in PEM that this server shows to them.")
    key_file: Path | None = Field(None, description="The key of that certificate.")
    headers: SecretStr = Field(SecretStr(""), description="Headers of every call, `name: value`, separated by semicolons.")

    @field_validator("endpoints", mode="before")
    @classmethod
    def _split_endpoints(cls, value: object) -> object:
        return _words(value)

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, value: SecretStr) -> SecretStr:
        headers_of(value.get_secret_value())
        return value


class StateSettings(_Section):
    """Where galleries, streams, events and keys are kept: in the data folder, or in a Redis that several replicas share."""

    redis_url: SecretStr = Field(
        SecretStr(""),
        description=(
            "`redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://` address, with user and password; "
            "empty: SQLite in the data folder."
        ),
    )
    namespace: str = Field(
        "main",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Keeps several services apart in one Redis; the same for all replicas of one.",
    )
    ca_file: Path | None = Field(None, description="Certificates in PEM that a Redis with TLS is verified by, instead of the usual ones.")
    wait_replicas: int = Field(
        0, ge=0, le=16, description="So many replicas of Redis must have a write before it is acknowledged (not with a Cluster)."
    )
    replica_url: str = Field(
        "", description="Address under which the other replicas reach this one, for pictures of its streams; empty: they cannot."
    )
    spool_bytes: int = Field(
        256 * 1024**2, ge=1024**2, description="Most bytes of events that wait in the data folder while Redis is away; the oldest go first."
    )

    @property
    def shared(self) -> bool:
        """Whether state is kept in a Redis."""
        return bool(self.redis_url.get_secret_value())


class ModelSettings(_Section):
    """Which networks find and embed faces."""

    detector: str = Field("yunet", description="Detector, by its name in `face-server models list`.")
    embedder: str = Field(
        "sface", description="Embedder, by its name in `face-server models list`. Collections stay pinned to the embedder that filled them."
    )
    second_pass: bool = Field(
        True, description="Look again at another scale when no face was found: faces that fill the picture, tiny pictures."
    )


class ImageSettings(_Section):
    """Bounds on pictures."""

    max_bytes: int = Field(20_000_000, ge=1024, description="Largest compressed picture, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1024, description="Largest picture, width times height, read from its header before decoding.")
    max_per_request: int = Field(256, ge=1, le=10_000, description="Most pictures in one request.")
    max_faces: int = Field(1000, ge=1, le=10_000, description="Most faces reported for one picture; the largest are kept.")


class FetchSettings(_Section):
    """Pictures by URL. Private, loopback, link-local and metadata addresses are refused."""

    enabled: bool = Field(True, description="Whether pictures may be named by URL.")
    allowed_hosts: Words = Field(
        (),
        description="Host names, addresses or networks (CIDR), separated by commas, fetched from although private.",
    )
    max_redirects: int = Field(5, ge=0, le=20, description="Most redirects followed; each target is checked again.")
    timeout_s: float = Field(20.0, gt=0, le=300, description="Longest whole download, in seconds.")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return _words(value)


class AnalysisSettings(_Section):
    """Defaults of requests that leave them open."""

    min_score: Share | None = Field(None, description="Detections below this score are dropped; the detector's own default if unset.")
    max_size_px: int = Field(640, ge=32, le=8192, description="Pictures are scaled down to this long side before detection.")


class EnrollmentSettings(_Section):
    """What a picture needs to become a template (`override` in a request lifts it)."""

    min_face_px: float = Field(40.0, ge=0, description="Shorter side of the face's box, in pixels: `small_face`.")
    min_sharpness: Share = Field(0.15, description="0..1: `low_sharpness`.")
    min_brightness: Share = Field(0.15, description="0..1: `low_brightness`.")
    max_brightness: Share = Field(0.90, description="0..1: `high_brightness`.")
    max_yaw_deg: float = Field(50.0, ge=0, le=90, description="Sideways turn in degrees: `extreme_pose`.")
    max_pitch_deg: float = Field(40.0, ge=0, le=90, description="Nod in degrees: `extreme_pose`.")
    duplicate_similarity: Share = Field(0.985, description="Two pictures of one person nearer than this are one picture: `duplicate`.")


class HttpSettings(_Section):
    """The HTTP service."""

    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    body_timeout_s: float = Field(30.0, gt=0, le=600, description="Longest time a request body may take to arrive, in seconds.")
    max_concurrent_requests: int = Field(64, ge=1, description="Requests worked on at a time.")
    max_waiting_requests: int = Field(256, ge=0, description="Requests that may wait for their turn; more get 503 with Retry-After.")
    cors_origins: Words = Field((), description="Origins that browsers may call from, separated by commas. None by default.")

    hosts: Words = Field(
        (),
        description="Host names, separated by commas, that a server without keys answers to, beside addresses and local names.",
    )

    @field_validator("cors_origins", "hosts", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return _words(value)


class StreamSettings(_Section):
    """Cameras, what they report and how long it is kept."""

    max_streams: int = Field(64, ge=1, le=10_000, description="Most streams that are registered at a time.")
    max_viewers: int = Field(32, ge=1, le=10_000, description="Most open previews, of all streams together.")
    media: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders, separated like PATH, whose files may be named as sources; `serve --media DIR` adds to them."
    )
    allow_devices: bool = Field(False, description="Whether `/dev/video*` may be named as a source; also `serve --allow-devices`.")
    publish_url: SecretStr = Field(
        SecretStr(""),
        description="Where annotated video is pushed: an rtmp(s) or rtsp(s) address with `{id}` for the id of the stream. Empty: nowhere.",
    )
    ffmpeg: Path | None = Field(None, description="The ffmpeg program that pushes video; found by itself if unset.")
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="64 hex digits that camera addresses are encrypted with; if unset, the file `secret.key` in the data folder.",
    )
    retention_days: float = Field(30.0, gt=0, le=3650, description="Events older than this are erased with their pictures.")
    max_events: int = Field(1_000_000, ge=100, le=100_000_000, description="Most events that are kept; the oldest are erased first.")
    max_picture_bytes: int = Field(
        4 * 1024**3, ge=1024**2, description="Most bytes of event pictures; the pictures of the oldest events are erased first."
    )
    max_pending: int = Field(
        10_000,
        ge=10,
        le=1_000_000,
        description="Most events that wait for one receiver of a stream; beyond, the oldest become dead letters.",
    )
    webhook_pictures: bool = Field(False, description="Put the pictures of an event into webhooks, as base64.")
    ca_file: Path | None = Field(
        None, description="Certificates in PEM that webhooks, brokers, Redis and gRPC receivers may be signed with, beside the usual ones."
    )
    discovery_prefix: str = Field(
        "homeassistant", description="Topic under which MQTT sinks announce themselves to Home Assistant; empty announces nothing."
    )
    stranger_days: float = Field(30.0, gt=0, le=3650, description="Strangers not seen for this long are forgotten.")
    max_strangers: int = Field(
        10_000, ge=10, le=1_000_000, description="Most strangers remembered; the one not seen for the longest goes first."
    )

    @field_validator("media", mode="before")
    @classmethod
    def _split_media(cls, value: object) -> object:
        return _paths(value)

    @field_validator("publish_url")
    @classmethod
    def _check_publish_url(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not _PUBLISH_URL.fullmatch(value.get_secret_value()):
            raise ValueError("must be an rtmp(s) or rtsp(s) address with {id} in it, such as rtmp://127.0.0.1/live/{id}")
        return value


class Settings(BaseSettings):
    """The effective settings. Frozen; ``Settings.load`` reads them."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on. Any but loopback needs API keys.")
    port: int = Field(18081, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data: Path = Field(Path("data"), description="Folder for everything the service keeps: galleries, keys, model files.")
    allow_anonymous: bool = Field(False, description="Serve without API keys on an address that others can reach.")
    collection: str = Field("default", description="Collection that is created at the first start and used where none is named.")
    models_path: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders searched first for model files, separated like PATH."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Form of log lines.")

    inference: InferenceSettings = InferenceSettings()
    triton: TritonSettings = TritonSettings()
    state: StateSettings = StateSettings()
    models: ModelSettings = ModelSettings()
    images: ImageSettings = ImageSettings()
    fetch: FetchSettings = FetchSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    enrollment: EnrollmentSettings = EnrollmentSettings()
    http: HttpSettings = HttpSettings()
    streams: StreamSettings = StreamSettings()

    @field_validator("models_path", mode="before")
    @classmethod
    def _split_path(cls, value: object) -> object:
        return _paths(value)

    @property
    def weights_folder(self) -> Path:
        """Where installed model files are kept."""
        return self.data / "models"

    @property
    def gallery_file(self) -> Path:
        """The SQLite file of collections and templates."""
        return self.data / "gallery.sqlite"

    @property
    def spool_folder(self) -> Path:
        """Where events wait while Redis is away."""
        return self.data / "spool"

    @property
    def keys_file(self) -> Path:
        """The SQLite file of API keys."""
        return self.data / "keys.sqlite"

    @property
    def journal_file(self) -> Path:
        """The SQLite file of streams, events and deliveries."""
        return self.data / "journal.sqlite"

    @property
    def secret_file(self) -> Path:
        """The key that camera addresses are encrypted with, where no variable holds it."""
        return self.data / "secret.key"

    def for_cameras(self, media: tuple[Path, ...], *, allow_devices: bool) -> Self:
        """These settings with more folders of video files, and cameras of this machine allowed."""
        streams = self.streams.model_copy(
            update={"media": (*self.streams.media, *media), "allow_devices": self.streams.allow_devices or allow_devices}
        )
        return self.model_copy(update={"streams": streams})

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; ``overrides`` (from the command line) win.

        Raises ConfigurationError with one readable line for an unknown variable or a bad value.
        """
        _refuse_unknown_variables(os.environ)
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors()[0]
            variable = ENV_PREFIX + "__".join(str(part) for part in first["loc"]).upper()
            raise ConfigurationError(f"{variable}: {first['msg'].removeprefix('Value error, ')}") from error


def headers_of(text: str) -> dict[str, str]:
    """Headers written as ``name: value; name: value``. Raises ValueError, without the value, for anything else."""
    headers = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, value = part.partition(":")
        if not (colon and re.fullmatch(r"[A-Za-z0-9._-]+", name.strip())):
            raise ValueError("must be headers of the form `name: value`, separated by semicolons")
        headers[name.strip().lower()] = value.strip()
    return headers


def variables(model: type[BaseModel] = Settings, prefix: str = ENV_PREFIX) -> dict[str, str]:
    """Every environment variable that exists, with its description."""
    known: dict[str, str] = {}
    for name, info in model.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(info.annotation, type) and issubclass(info.annotation, _Section):
            known |= variables(info.annotation, f"{variable}__")
        else:
            known[variable] = info.description or ""
    return known


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = variables()
    for variable in sorted(environment):
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in known:
            raise ConfigurationError(f"{variable} is not a setting of face_server; `face-server config` lists the ones that are")


def _words(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _paths(value: object) -> object:
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

"""The part of the composition root that decides who runs the networks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from face_server.api.services import ModelInfo, Networks
from face_server.backends.batching import BatchingBackend, BatchObservation, Observer
from face_server.backends.gathering import BatchPolicy
from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.domain import face_pipeline
from face_server.domain.network import Network
from face_server.domain.ports import Analyzer, Backend, Clock
from face_server.errors import ConfigurationError
from face_server.models.catalog import CatalogEntry
from face_server.models.contract import Task
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.embedder import EmbedderOptions, NetworkEmbedder, model_id
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.pipeline.remote_analysis import RemoteAnalyzer, RemoteLimits
from face_server.settings import Settings, headers_of
from face_server.telemetry import Metrics
from face_server.workers import Workers

GPU_BATCH = 32
"""Rows gathered for one call on a GPU unless the operator says otherwise; 1 on CPUs, where it does not help."""

_REMOTE_BATCH = 4
"""Crops of one picture that share a call to a remote server: each call has a price, and calls side by side use all instances of a model."""


@dataclass(frozen=True, slots=True)
class Inference:
    """What analyses pictures, and the catalogue entries behind it. ``needed`` are the models that must be ready, by role."""

    backend: Backend
    networks: Networks
    analyzer: Analyzer
    detector: CatalogEntry
    embedder: CatalogEntry
    needed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Model:
    """A network in use and where it came from."""

    entry: CatalogEntry
    network: Network


@asynccontextmanager
async def open_inference(settings: Settings, workers: Workers, clock: Clock, metrics: Metrics) -> AsyncIterator[Inference]:
    """The networks of the settings behind the backend of the settings.

    Raises ConfigurationError or WeightsError when the settings, the weights or the machine do not
    allow it. A remote server that is away is no error: it is waited for while requests get 503.
    """
    store = WeightsStore(settings.weights_folder, settings.models_path)
    found = await workers.run(_load, store, settings.models.detector, Task.DETECTOR)
    known = await workers.run(_load, store, settings.models.embedder, Task.EMBEDDER)
    opened = _open_remote if settings.inference.backend.startswith("triton") else _open_local
    async with opened(settings, found, known, workers, clock, metrics) as inference:
        yield inference


def model_info(entry: CatalogEntry) -> ModelInfo:
    """A model in use, for people."""
    return ModelInfo(entry.name, entry.task.value, entry.licence, entry.commercial_use, entry.sha256)


@asynccontextmanager
async def _open_local(
    settings: Settings, found: _Model, known: _Model, workers: Workers, _clock: Clock, metrics: Metrics
) -> AsyncIterator[Inference]:
    """Networks that run in this process, behind the batching that suits them."""
    inference, networks = settings.inference, [found.network, known.network]
    inner: Backend
    if inference.backend == "openvino":
        # An extra: imported only when asked for.
        from face_server.backends.openvino import OpenVinoBackend, OpenVinoOptions  # noqa: PLC0415  # see above

        inner = await OpenVinoBackend.open(networks, workers, OpenVinoOptions(inference.precision))
    else:
        inner = await OnnxBackend.open(networks, workers, OnnxOptions(inference.providers, inference.require_gpu))
    on_gpu = "CUDA" in inner.description or "Tensorrt" in inner.description
    batch = inference.max_batch or (GPU_BATCH if on_gpu else 1)
    policy = BatchPolicy(batch, inference.max_wait_ms)
    backend = BatchingBackend(inner, {network.name: policy for network in networks}, workers, observer=_observer(metrics))
    try:
        pair = _networks(settings, found, known, backend, workers, detect_batch=batch, embed_batch=batch)
        analyzer = LocalAnalyzer(pair.detector, pair.embedder, workers)
        yield Inference(backend, pair, analyzer, found.entry, known.entry, _needed(found, known))
    finally:
        await backend.close()


@asynccontextmanager
async def _open_remote(
    settings: Settings, found: _Model, known: _Model, workers: Workers, clock: Clock, metrics: Metrics
) -> AsyncIterator[Inference]:
    """Networks that run on Triton servers, which gather batches themselves."""
    from face_server.backends.triton.backend import TritonBackend  # noqa: PLC0415  # imports gRPC's client, which takes a moment
    from face_server.backends.triton.client import TritonClient  # noqa: PLC0415  # likewise

    whole = settings.inference.backend == "triton-pipeline"
    networks = [found.network, known.network]
    model = model_id(known.entry, known.network)
    client = await TritonClient.open(_triton_options(settings), workers, clock, networks, pipeline=model if whole else None)
    backend = BatchingBackend(TritonBackend(client, networks), {}, workers, observer=_observer(metrics))
    try:
        batch = settings.inference.max_batch
        pair = _networks(settings, found, known, backend, workers, detect_batch=batch or 1, embed_batch=batch or _REMOTE_BATCH)
        local = LocalAnalyzer(pair.detector, pair.embedder, workers)
        needed = _needed(found, known)
        if not whole:
            yield Inference(backend, pair, local, found.entry, known.entry, needed)
            return
        limits = RemoteLimits(settings.images.max_bytes, settings.images.max_pixels)
        remote = RemoteAnalyzer(
            client,
            local,
            limits,
            second_pass=settings.models.second_pass,
            observer=lambda took_s: metrics.inference(face_pipeline.NAME, "run", took_s),
        )
        yield Inference(backend, pair, remote, found.entry, known.entry, {**needed, "pipeline": face_pipeline.NAME})
    finally:
        await backend.close()


def _needed(found: _Model, known: _Model) -> dict[str, str]:
    return {"detector": found.entry.name, "embedder": known.entry.name}


def _networks(
    settings: Settings, found: _Model, known: _Model, backend: Backend, workers: Workers, *, detect_batch: int, embed_batch: int
) -> Networks:
    detector = NetworkDetector(found.entry, backend, workers, DetectorOptions(detect_batch, settings.models.second_pass))
    return Networks(detector, NetworkEmbedder(known.entry, known.network, backend, EmbedderOptions(embed_batch)))


def _observer(metrics: Metrics) -> Observer:
    def observe(seen: BatchObservation) -> None:
        metrics.batch(seen.network, seen.rows)
        metrics.queue(seen.network, seen.waiting)
        metrics.inference(seen.network, "wait", seen.wait_s)
        metrics.inference(seen.network, "run", seen.infer_s)

    return observe


def _triton_options(settings: Settings) -> TritonOptions:
    chosen = settings.triton
    return TritonOptions(
        endpoints=chosen.endpoints,
        timeout_s=chosen.timeout_s,
        max_concurrent=chosen.max_concurrent,
        max_waiting=chosen.max_waiting,
        shared_memory=SharedMemory(chosen.shared_memory),
        shared_memory_bytes=chosen.shared_memory_bytes,
        tls=chosen.tls,
        ca_file=chosen.ca_file,
        certificate_file=chosen.certificate_file,
        key_file=chosen.key_file,
        headers=headers_of(chosen.headers.get_secret_value()),
    )


def _load(store: WeightsStore, name: str, task: Task) -> _Model:
    entry = store.entry(name)
    if entry.task is not task:
        raise ConfigurationError(f"{name} is no {task.value}: it cannot be FACE_SERVER_MODELS__{task.value.upper()}")
    return _Model(entry, store.network(name))

"""The composition root: the only place that knows which class implements which port."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import cv2
from fastapi import FastAPI

from face_server import __version__
from face_server.api.application import ApiOptions, create_api
from face_server.api.services import Defaults, Served, Services
from face_server.app_inference import model_info, open_inference
from face_server.app_state import ALONE, Replica, State, open_state
from face_server.app_streams import LOOPBACK, StreamTools, open_streams
from face_server.clock import SystemClock
from face_server.domain.access import KeyRing
from face_server.domain.embedding import ModelId
from face_server.domain.identity import Collection
from face_server.domain.ports import Clock, Gallery
from face_server.domain.quality import QualityLimits
from face_server.errors import ConfigurationError, Conflict, NotFound, Unavailable
from face_server.models.catalog import CatalogEntry
from face_server.pipeline.enrollment import Enrollment, EnrollmentPolicy
from face_server.pipeline.intake import Intake, IntakeLimits
from face_server.pipeline.recognition import Recognition
from face_server.settings import Settings
from face_server.telemetry import Metrics, watch_loop_lag
from face_server.video.annotate import JpegPainter
from face_server.video.images import Codec, ImageLimits
from face_server.video.remote import Fetcher, FetchOptions, NoFetcher
from face_server.workers import Workers

_LOADING_S = 0.5
_FIRST_COLLECTION_S = 2.0


def create_app(settings: Settings, replica: Replica = ALONE) -> FastAPI:
    """The ASGI application. What it needs is opened when it starts and closed when it stops.

    ``replica`` says what this process is among others, where several share a Redis.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def served() -> AsyncIterator[Served]:
        async with AsyncExitStack() as stack:
            services, state = await stack.enter_async_context(_open(settings, metrics, wait=False))
            cameras = await stack.enter_async_context(open_streams(settings, _stream_tools(services, state, metrics), replica))
            # What was made so far stays until the end; collecting it again and again would stop the loop for 0.1 s each time.
            gc.collect()
            gc.freeze()
            yield Served(services, cameras)

    return create_api(served, _api_options(settings), metrics)


def _stream_tools(services: Services, state: State, metrics: Metrics) -> StreamTools:
    return StreamTools(
        detector=services.networks.detector,
        embedder=services.networks.embedder,
        recognition=services.recognition,
        gallery=services.gallery,
        codec=services.codec,
        workers=services.workers,
        clock=services.clock,
        metrics=metrics,
        min_score=services.defaults.min_score,
        redis=state.redis,
    )


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[Services]:
    """Everything the API and the command line work with, ready to use.

    Raises ConfigurationError or WeightsError with one sentence when the settings, the weights or
    the machine do not allow it, Unavailable when a Redis that is configured is away.
    """
    async with _open(settings, metrics or Metrics(), wait=True) as (services, _):
        yield services


@asynccontextmanager
async def _open(settings: Settings, metrics: Metrics, *, wait: bool) -> AsyncIterator[tuple[Services, State]]:
    """The services, and where they keep state; ``wait`` see ``open_state``."""
    async with AsyncExitStack() as stack:
        # OpenCV's own threads would compete with the workers for the same cores.
        cv2.setNumThreads(1)
        workers = stack.enter_context(Workers(settings.inference.workers or None))
        clock = SystemClock()
        inference = await stack.enter_async_context(open_inference(settings, workers, clock, metrics))
        analyzer, embedder = inference.analyzer, inference.networks.embedder
        stack.push_async_callback(_cancel, asyncio.create_task(watch_loop_lag(metrics)))
        await workers.run(_make_folder, settings)
        state = await stack.enter_async_context(open_state(settings, workers, clock, wait=wait))
        gallery, keys = state.gallery, await _required_keys(settings, state.keys)
        collecting = asyncio.create_task(_ensure_collection(gallery, settings.collection, embedder.model, clock), name="first collection")
        stack.push_async_callback(_cancel, collecting)
        if wait or state.redis is None:
            await collecting
        else:
            # A large gallery is loaded while the service answers already; whoever finds it ready must find the collection too.
            await asyncio.wait([collecting], timeout=_FIRST_COLLECTION_S)
        codec = Codec(workers, ImageLimits(max_bytes=settings.images.max_bytes, max_pixels=settings.images.max_pixels))
        fetcher = Fetcher(_fetch_options(settings)) if settings.fetch.enabled else NoFetcher()
        stack.push_async_callback(fetcher.close)
        limits = IntakeLimits(settings.images.max_per_request, concurrency=4 * workers.threads)
        intake = Intake(codec, fetcher, analyzer, workers, limits)
        calibration = inference.embedder.recognition.calibration
        recognition = Recognition(gallery, {embedder.model: calibration} if calibration else {})
        defaults = _defaults(settings, inference.detector)
        policy = _enrollment_policy(settings, defaults)
        services = Services(
            intake=intake,
            analyzer=analyzer,
            recognition=recognition,
            enrollment=Enrollment(intake, analyzer, codec, gallery, recognition, clock, policy),
            gallery=gallery,
            codec=codec,
            painter=JpegPainter(workers),
            backend=inference.backend,
            networks=inference.networks,
            needed=inference.needed,
            workers=workers,
            clock=clock,
            keys=keys,
            defaults=defaults,
            detector=model_info(inference.detector),
            embedder=model_info(inference.embedder),
            version=__version__,
        )
        yield services, state


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _required_keys(settings: Settings, keys: KeyRing) -> KeyRing | None:
    """The API keys, or None where none are needed: on loopback without any, or told so explicitly.

    Raises ConfigurationError for an address that others can reach, without keys.
    """
    if await keys.list():
        return keys
    if settings.host in LOOPBACK or settings.allow_anonymous:
        return None
    message = (
        f"{settings.host} can be reached from other machines and no API key exists: create one with "
        "`face-server keys create --role admin`, or allow everybody with --allow-anonymous"
    )
    raise ConfigurationError(message)


async def _ensure_collection(gallery: Gallery, name: str, model: ModelId, clock: Clock) -> None:
    """See to it that there is a collection; waits for a gallery that is being loaded."""
    while True:
        try:
            await gallery.collection(name)
        except NotFound:
            with contextlib.suppress(Conflict):
                await gallery.create_collection(Collection(name, model, created_at=clock.now()))
        except Unavailable as error:
            if gallery.freshness.current:
                raise
            await clock.sleep(min(error.retry_after_s, _LOADING_S))
            continue
        return


def _make_folder(settings: Settings) -> None:
    """Create the data folder, readable by its owner only. Raises ConfigurationError when it cannot be."""
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the data folder {settings.data} cannot be created: {error.strerror}") from error


def _fetch_options(settings: Settings) -> FetchOptions:
    fetch = settings.fetch
    return FetchOptions(
        allowed_hosts=fetch.allowed_hosts,
        max_bytes=settings.images.max_bytes,
        total_timeout_s=fetch.timeout_s,
        max_redirects=fetch.max_redirects,
    )


def _enrollment_policy(settings: Settings, defaults: Defaults) -> EnrollmentPolicy:
    chosen = settings.enrollment
    limits = QualityLimits(
        chosen.min_face_px,
        chosen.min_sharpness,
        chosen.min_brightness,
        chosen.max_brightness,
        chosen.max_yaw_deg,
        chosen.max_pitch_deg,
        defaults.min_score,
    )
    return EnrollmentPolicy(limits, chosen.duplicate_similarity, defaults.min_score, defaults.max_size_px)


def _defaults(settings: Settings, detector: CatalogEntry) -> Defaults:
    score = settings.analysis.min_score
    return Defaults(
        collection=settings.collection,
        min_score=detector.detection_score if score is None else score,
        max_size_px=settings.analysis.max_size_px,
        max_faces=settings.images.max_faces,
        max_body_bytes=settings.http.max_body_bytes,
        max_concurrent_requests=settings.http.max_concurrent_requests,
        max_waiting_requests=settings.http.max_waiting_requests,
    )


def _api_options(settings: Settings) -> ApiOptions:
    http = settings.http
    return ApiOptions(
        max_body_bytes=http.max_body_bytes,
        body_timeout_s=http.body_timeout_s,
        max_concurrent_requests=http.max_concurrent_requests,
        max_waiting_requests=http.max_waiting_requests,
        cors_origins=http.cors_origins,
        hosts=http.hosts,
    )

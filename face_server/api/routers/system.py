"""Health, metrics and information."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from face_server.api.deps import CamerasDep, MetricsDep, ServicesDep
from face_server.api.problems import responses
from face_server.api.rendering import json_reply
from face_server.api.schemas.system import Alive, Check, DefaultsBody, Info, Limits, ModelBody, Readiness
from face_server.api.security import READ
from face_server.api.services import Cameras, ModelInfo, Services
from face_server.domain.ports import Gallery
from face_server.domain.streams import StreamState
from face_server.errors import FaceServerError
from face_server.telemetry import Metrics

_STORE_S = 1.0

router = APIRouter(tags=["system"])


@router.get("/healthz", operation_id="healthz", summary="Is the process alive?", response_model=Alive)
async def healthz() -> Response:
    """Answer as long as the event loop turns. Needs no key."""
    return json_reply({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Would requests be served?",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Something is not ready; the checks say what."}},
)
async def readyz(services: ServicesDep, cameras: CamerasDep) -> Response:
    """Check that the models would run and that gallery and journal answer. Needs no key."""
    checks = [
        *[await _network_ready(role, model, services) for role, model in services.needed.items()],
        await _gallery_ready(services.gallery),
        await _journal_ready(cameras),
    ]
    ready = all(check.ready for check in checks)
    return json_reply(Readiness(ready=ready, checks=checks).model_dump(), 200 if ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    dependencies=[READ],
    response_class=Response,
    responses=responses() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}},
)
async def prometheus(services: ServicesDep, cameras: CamerasDep, metrics: MetricsDep) -> Response:
    """Requests, inferences, batches, queues, streams, deliveries and gallery sizes. Needs the role read where keys are on."""
    _report_streams(cameras, metrics)
    fresh = services.gallery.freshness
    metrics.stale(0.0 if fresh.current else services.clock.now() - (fresh.stale_since or 0.0))
    metrics.spooled(cameras.spooled() if cameras.spooled else 0)
    collections = await services.gallery.collections()
    metrics.gallery(
        collections=len(collections),
        identities=sum(collection.identities for collection in collections),
        templates=sum(collection.templates for collection in collections),
    )
    return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(
    "/v1/info", operation_id="info", summary="Version, models and limits", dependencies=[READ], response_model=Info, responses=responses()
)
async def info(services: ServicesDep) -> Response:
    """Say which models this server uses, under which licences, on what they run, and the limits of requests."""
    defaults = services.defaults
    body = Info(
        version=services.version,
        model=str(services.analyzer.model),
        detector=_model(services.detector),
        embedder=_model(services.embedder),
        backend=services.backend.description,
        keys_required=services.keys is not None,
        limits=Limits(
            max_body_bytes=defaults.max_body_bytes,
            max_images=services.intake.limits.max_images,
            max_faces=defaults.max_faces,
            max_concurrent_requests=defaults.max_concurrent_requests,
            max_waiting_requests=defaults.max_waiting_requests,
        ),
        defaults=DefaultsBody(collection=defaults.collection, min_score=defaults.min_score, max_size=defaults.max_size_px),
    )
    return json_reply(body.model_dump())


def _report_streams(cameras: Cameras, metrics: Metrics) -> None:
    statuses = [cameras.streams.status(spec.id) for spec in cameras.streams.specs()]
    states = {state.value: sum(status.state is state for status in statuses) for state in StreamState}
    outcomes = ("decoded", "analysed", "dropped", "stale")
    metrics.streams(states, {outcome: sum(getattr(status, outcome) for status in statuses) for outcome in outcomes})


def _model(model: ModelInfo) -> ModelBody:
    members: dict[str, Any] = asdict(model)
    return ModelBody(**members)


async def _network_ready(name: str, network: str, services: Services) -> Check:
    ready = await services.backend.ready(network)
    return Check(name=name, ready=ready, reason="" if ready else f"the backend cannot run {network!r} now")


async def _gallery_ready(gallery: Gallery) -> Check:
    """Ready with a copy that is old: it is searched, and the answers say since when they are."""
    fresh = gallery.freshness
    if fresh.current or fresh.stale_since is None:
        check = await _store_ready("gallery", gallery.collections())
        return check if fresh.current else Check(name="gallery", ready=False, reason=fresh.reason or check.reason)
    return Check(name="gallery", ready=True, reason=fresh.reason)


async def _journal_ready(cameras: Cameras) -> Check:
    """Ready without the journal where events wait for it on this disk: searches and cameras go on."""
    check = await _store_ready("journal", cameras.journal.lanes())
    if cameras.spooled is None:
        return check
    lost = cameras.journal_problem() if cameras.journal_problem else ""
    return Check(name=check.name, ready=True, reason=check.reason or lost)


async def _store_ready(name: str, question: Awaitable[object]) -> Check:
    try:
        # Whoever asks has little patience: a store that hangs must not make the other checks unknown.
        async with asyncio.timeout(_STORE_S):
            await question
    except FaceServerError as error:
        return Check(name=name, ready=False, reason=error.message)
    except TimeoutError:
        return Check(name=name, ready=False, reason=f"its store did not answer within {_STORE_S:.0f} s")
    return Check(name=name, ready=True, reason="")

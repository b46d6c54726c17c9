"""What routes are given: the services, the metrics and the parameters that many of them share."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Request

from face_server.api.services import Cameras, Served, Services
from face_server.telemetry import Metrics

COLLECTION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
STREAM_ID_PATTERN = r"^[^\x00-\x1f\x7f/\\?#%]{1,64}$"


async def services(request: Request) -> Services:
    """The services that the application's lifespan opened."""
    return cast("Services", request.app.state.services)


async def cameras(request: Request) -> Cameras:
    """The streams that the application's lifespan opened."""
    return cast("Cameras", request.app.state.cameras)


async def served(request: Request) -> Served:
    """Everything that the application's lifespan opened."""
    return Served(request.app.state.services, request.app.state.cameras)


async def metrics(request: Request) -> Metrics:
    """The metrics of this application."""
    return cast("Metrics", request.app.state.metrics)


ServicesDep = Annotated[Services, Depends(services)]
CamerasDep = Annotated[Cameras, Depends(cameras)]
ServedDep = Annotated[Served, Depends(served)]
MetricsDep = Annotated[Metrics, Depends(metrics)]

CollectionName = Annotated[
    str,
    Path(
        pattern=COLLECTION_PATTERN,
        description="Name of the collection: 1 to 64 letters, digits and `._-`.",
        openapi_examples={"default": {"value": "default"}},
    ),
]
IdentityId = Annotated[
    str,
    Path(
        pattern=ID_PATTERN,
        description="Id of the identity: 1 to 64 letters, digits and `_-`.",
        openapi_examples={"an id": {"value": "4f1c2a9be07d3358"}},
    ),
]
TemplateId = Annotated[
    str, Path(pattern=ID_PATTERN, description="Id of the template.", openapi_examples={"an id": {"value": "9a6d0c41b2e8f377"}})
]
StreamId = Annotated[
    str,
    Path(pattern=STREAM_ID_PATTERN, description="Id of the stream.", openapi_examples={"an id": {"value": "entrance"}}),
]

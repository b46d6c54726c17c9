"""Streams: cameras and files that are watched for as long as they are registered."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import CamerasDep, ServedDep, StreamId
from face_server.api.live import LiveResponse
from face_server.api.problems import responses
from face_server.api.rendering import JPEG_ANSWER, json_reply
from face_server.api.schemas.streams import (
    ProbeBody,
    ProbeRequest,
    PublishRequest,
    StreamBody,
    StreamList,
    StreamPatch,
    StreamRequest,
    StreamSettings,
)
from face_server.api.security import OPERATE, READ
from face_server.api.services import Cameras, Served
from face_server.api.stream_bodies import changed, spec_of, stream_body
from face_server.domain.streams import StreamSpec, Transport
from face_server.errors import NotFound

router = APIRouter(prefix="/v1/streams", tags=["streams"])

_BOUNDARY = "frame"
_MJPEG = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
_MJPEG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"multipart/x-mixed-replace": {"schema": {"type": "string", "format": "binary"}}}, "description": "JPEGs without end."}
}


@router.get("", operation_id="list_streams", summary="List streams", dependencies=[READ], response_model=StreamList, responses=responses())
async def list_streams(cameras: CamerasDep) -> Response:
    """List every stream with its status."""
    return json_reply({"streams": [_shown(spec, cameras) for spec in cameras.streams.specs()]})


@router.post(
    "",
    operation_id="create_stream",
    summary="Register a stream",
    dependencies=[OPERATE],
    response_model=StreamBody,
    status_code=201,
    responses=responses(409, 415),
)
async def create_stream(body: Annotated[StreamRequest, Depends(BodyReader(StreamRequest).read)], served: ServedDep) -> Response:
    """Register a stream and start it. Answers at once; `status` tells whether the camera could be reached.

    Collections must exist and somebody must listen at the address of each sink; else nothing is registered.
    """
    spec = _spec_of(body.id or secrets.token_hex(6), body, served)
    return json_reply(_shown(await served.cameras.streams.create(spec), served.cameras), 201)


@router.post(
    "/probe",
    operation_id="probe_stream",
    summary="Try a source without saving it",
    dependencies=[OPERATE],
    response_model=ProbeBody,
    responses=responses(415),
)
async def probe_stream(body: Annotated[ProbeRequest, Depends(BodyReader(ProbeRequest).read)], cameras: CamerasDep) -> Response:
    """Open a source, say what it shows, and close it again."""
    info = await cameras.streams.probe(StreamSpec("probe", body.url, transport=Transport(body.transport)))
    return json_reply(ProbeBody(width=info.width, height=info.height, fps=info.fps, codec=info.codec).model_dump())


@router.get(
    "/{stream_id}",
    operation_id="get_stream",
    summary="Get a stream",
    dependencies=[READ],
    response_model=StreamBody,
    responses=responses(404),
)
async def get_stream(stream_id: StreamId, cameras: CamerasDep) -> Response:
    """Get what was registered and how it is."""
    return json_reply(_shown(cameras.streams.spec(stream_id), cameras))


@router.put(
    "/{stream_id}",
    operation_id="put_stream",
    summary="Register a stream or replace its settings",
    dependencies=[OPERATE],
    response_model=StreamBody,
    responses=responses(409, 415) | {201: {"model": StreamBody, "description": "Registered."}},
)
async def put_stream(
    stream_id: StreamId, body: Annotated[StreamSettings, Depends(BodyReader(StreamSettings).read)], served: ServedDep
) -> Response:
    """Make a stream of this id be exactly as the body says. Tracks go on unless the source changes."""
    spec = _spec_of(stream_id, body, served)
    streams = served.cameras.streams
    try:
        stored = await streams.change(stream_id, lambda current: replace(spec, created_at=current.created_at))
    except NotFound:
        return json_reply(_shown(await streams.create(spec), served.cameras), 201)
    return json_reply(_shown(stored, served.cameras))


@router.patch(
    "/{stream_id}",
    operation_id="patch_stream",
    summary="Change some settings of a stream",
    dependencies=[OPERATE],
    response_model=StreamBody,
    responses=responses(404, 415),
)
async def patch_stream(
    stream_id: StreamId, body: Annotated[StreamPatch, Depends(BodyReader(StreamPatch).read)], cameras: CamerasDep
) -> Response:
    """Change the members that the body names, while the stream runs. `"enabled": false` stops it.

    Only what is new is looked at: a receiver that is away now does not stand in the way of other changes.
    """
    return json_reply(_shown(await cameras.streams.change(stream_id, lambda spec: changed(spec, body)), cameras))


@router.delete(
    "/{stream_id}",
    operation_id="delete_stream",
    summary="Remove a stream",
    dependencies=[OPERATE],
    status_code=204,
    response_class=Response,
    responses=responses(404),
)
async def delete_stream(stream_id: StreamId, cameras: CamerasDep) -> Response:
    """Stop a stream and forget it. Its events stay."""
    await cameras.streams.remove(stream_id)
    return Response(status_code=204)


@router.post(
    "/{stream_id}/restart",
    operation_id="restart_stream",
    summary="Connect anew",
    dependencies=[OPERATE],
    response_model=StreamBody,
    responses=responses(404, 409),
)
async def restart_stream(stream_id: StreamId, cameras: CamerasDep) -> Response:
    """Drop the connection and make a new one at once, whatever the stream does now."""
    await cameras.streams.restart(stream_id)
    return json_reply(_shown(cameras.streams.spec(stream_id), cameras))


@router.put(
    "/{stream_id}/publish",
    operation_id="publish_stream",
    summary="Push the annotated video, or stop",
    dependencies=[OPERATE],
    response_model=StreamBody,
    responses=responses(404, 415),
)
async def publish_stream(
    stream_id: StreamId, body: Annotated[PublishRequest, Depends(BodyReader(PublishRequest).read)], cameras: CamerasDep
) -> Response:
    """Switch the push to the server's publishing address (RTMP or RTSP, H.264) on or off."""

    def switched(spec: StreamSpec) -> StreamSpec:
        return replace(spec, rules=replace(spec.rules, publish=body.publish))

    return json_reply(_shown(await cameras.streams.change(stream_id, switched), cameras))


@router.get(
    "/{stream_id}/snapshot.jpg",
    operation_id="stream_snapshot",
    summary="The newest frame",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404) | JPEG_ANSWER,
)
async def stream_snapshot(
    stream_id: StreamId,
    cameras: CamerasDep,
    annotated: Annotated[bool, Query(description="Draw boxes, names and track ids.")] = True,
) -> Response:
    """The newest frame as a JPEG."""
    jpeg = await cameras.streams.snapshot(stream_id, annotated=annotated)
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "no-store"})


@router.get(
    "/{stream_id}/preview.mjpeg",
    operation_id="stream_preview",
    summary="Watch a stream",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404) | _MJPEG_ANSWER,
)
async def stream_preview(stream_id: StreamId, cameras: CamerasDep) -> Response:
    """The annotated stream as MJPEG, for an `<img>`; drawn only while somebody watches."""
    return LiveResponse(cameras.streams.preview(stream_id), _part, media_type=_MJPEG)


def _part(jpeg: bytes) -> bytes:
    return b"--%s\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n%s\r\n" % (_BOUNDARY.encode(), len(jpeg), jpeg)


def _spec_of(stream_id: str, body: StreamSettings, served: Served) -> StreamSpec:
    return spec_of(stream_id, body, served.services.clock.now(), served.services.defaults.collection)


def _shown(spec: StreamSpec, cameras: Cameras) -> dict[str, object]:
    """A stream as answers show it, its credentials masked."""
    return stream_body(cameras.streams.masked(spec), cameras.streams.status(spec.id)).model_dump(mode="json")

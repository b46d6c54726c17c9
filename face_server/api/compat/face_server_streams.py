"""The face server's HTTP API for cameras: ``/add_source`` and its kin, ``/source_status``, ``/stream/pipe``.

Every handled request is answered with status 200; ``code`` in the body says what happened. A task
is a stream of ``/v1/streams`` with the id ``task_id``, matched against the default collection.

What differs from the original server: tasks survive restarts and reconnect by themselves; adding a
camera that is away answers at once; ``/update_source`` (PUT or POST) applies all three fields, and
members of ``rule_info`` that are left out stay as they are; numbers in ``rule_info`` may be strings;
``frame_rate`` paces the pushed video without changing its speed; without ``skip_frame_rate`` the newest
frames are analysed, at most five a second; a receiver that nobody reaches is refused when it is named
first; a task that is rebuilt goes on to be pushed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from face_server.api.compat.face_server_forms import BAD_REQUEST, FORMS, OK, answers, documented, fields_of, reply, short_body
from face_server.api.compat.face_server_rules import rules_of
from face_server.api.deps import ServedDep
from face_server.api.security import OPERATE, READ
from face_server.api.services import Served
from face_server.domain.streams import SinkKind, SinkSpec, StreamRules, StreamSpec
from face_server.errors import Conflict, InvalidInput, NotFound

router = APIRouter(tags=["Face server"])

DUPLICATE = 11001
ALIVE_S = 60
_MAX_IDS = 10_000

_THEIR_WORDS = {
    "id": "task_id",
    "url": "rtsp_url",
    "rules.publish_fps": "frame_rate",
    "rules.every_nth": "rule_info.skip_frame_rate",
    "rules.realert_s": "rule_info.alert_time",
}

_TASK = {"type": "string", "description": "Id of the task, yours to choose.", "examples": ["1"]}
_SOURCE_URL = {"type": "string", "description": "Address of the camera.", "examples": ["rtsp://admin:secret@192.168.1.20/stream1"]}
_CALLBACK = {"type": "string", "description": "`host:port` of the receiver of alerts; none without it.", "examples": ["192.168.1.9:50051"]}
_FRAME_RATE = {"type": "string", "description": "Frames a second of the pushed video; the camera's own without it.", "examples": ["25"]}
_RULES = {
    "type": "string",
    "description": "JSON object: `mode` (cpu, gpu), `skip_frame_rate` (0 newest, 1 every, n each n-th frame), `add_stranger` (0, 1), "
    "`alert_time` (seconds until the same person is announced again).",
    "examples": ['{"add_stranger": 1, "alert_time": 60}'],
}
_FIELDS = {"task_id": _TASK, "rtsp_url": _SOURCE_URL, "grpc_address": _CALLBACK, "frame_rate": _FRAME_RATE, "rule_info": _RULES}
_EXAMPLE = {"task_id": "1", "rtsp_url": "rtsp://192.168.1.20/stream1", "rule_info": '{"alert_time": 60}'}
_CHANGES = {"task_id": _TASK, "grpc_address": _CALLBACK, "frame_rate": _FRAME_RATE, "rule_info": _RULES}
_CHANGE_EXAMPLE = {"task_id": "1", "rule_info": '{"alert_time": 60}'}
_SOURCE_LIST = {"source_list": {"type": "array", "items": {"type": "string"}, "description": "Every task."}}
_DATA = {"data": {"type": "string", "description": "JSON object in a string: task id to whether it works.", "examples": ['{"1": true}']}}
_IDS = {"requestBody": {"content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}, "example": ["1", "2"]}}}}


@router.post("/add_source", dependencies=[OPERATE], **documented(_FIELDS, _EXAMPLE, _SOURCE_LIST))
async def add_source(request: Request, served: ServedDep) -> Response:
    """Register a camera under a task id and start to watch it."""
    return await reply(_in_their_words(_add_source(request, served)), served.services)


@router.post("/rebuild_source", dependencies=[OPERATE], **documented(_FIELDS, _EXAMPLE, _SOURCE_LIST))
async def rebuild_source(request: Request, served: ServedDep) -> Response:
    """Register a camera anew, in place of the task of that id if there is one."""
    return await reply(_in_their_words(_rebuild_source(request, served)), served.services)


@router.delete("/remove_source", dependencies=[OPERATE], **documented({"task_id": _TASK}, {"task_id": "1"}, _SOURCE_LIST))
async def remove_source(request: Request, served: ServedDep) -> Response:
    """Stop a task and forget it."""
    return await reply(_remove_source(request, served), served.services)


@router.post("/get_source_list", dependencies=[READ], **documented({}, {}, _SOURCE_LIST))
async def get_source_list(served: ServedDep) -> Response:
    """Every task id, in the order in which they were added."""
    return await reply(_get_source_list(served), served.services)


@router.put("/update_source", dependencies=[OPERATE], **documented(_CHANGES, _CHANGE_EXAMPLE, _SOURCE_LIST))
async def update_source(request: Request, served: ServedDep) -> Response:
    """Change receiver, frame rate and rules of a task while it runs; what is left out stays."""
    return await reply(_in_their_words(_update_source(request, served)), served.services)


@router.post("/update_source", dependencies=[OPERATE], **documented(_CHANGES, _CHANGE_EXAMPLE, _SOURCE_LIST))
async def post_update_source(request: Request, served: ServedDep) -> Response:
    """The same by POST, as the original's manual has it."""
    return await reply(_in_their_words(_update_source(request, served)), served.services)


@router.post("/source_status", dependencies=[READ], response_class=Response, responses=answers(_DATA), openapi_extra=_IDS)
async def source_status(request: Request, served: ServedDep) -> Response:
    """Whether tasks work: a frame was analysed within the last minute."""
    return await reply(_source_status(request, served), served.services)


@router.get("/source_status/all", dependencies=[READ], response_class=Response, responses=answers(_DATA))
async def all_source_status(served: ServedDep) -> Response:
    """Whether each known task works."""
    return await reply(_statuses([spec.id for spec in served.cameras.streams.specs()], served), served.services)


@router.post("/stream/pipe", dependencies=[OPERATE], response_class=Response, responses=answers({}), openapi_extra=_IDS)
async def start_pipes(request: Request, served: ServedDep) -> Response:
    """Push the annotated video of tasks to the publishing address."""
    return await reply(_pipes(request, served, publish=True), served.services)


@router.delete("/stream/pipe", dependencies=[OPERATE], response_class=Response, responses=answers({}), openapi_extra=_IDS)
async def stop_pipes(request: Request, served: ServedDep) -> Response:
    """Stop to push the annotated video of tasks."""
    return await reply(_pipes(request, served, publish=False), served.services)


async def _in_their_words(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The result of ``work``; what it refuses is named as in this API."""
    try:
        return await work
    except InvalidInput as error:
        field = error.field or ""
        name = "grpc_address" if field.startswith("sinks") else _THEIR_WORDS.get(field)
        if name is None:
            raise
        raise InvalidInput(f"{name}: {error.message}", code=error.code, field=name) from error


async def _add_source(request: Request, served: Served) -> dict[str, Any]:
    spec = _spec_of(await fields_of(request, served.services, convert=True), served)
    try:
        await served.cameras.streams.create(spec)
    except Conflict:
        return {**_listed(served), "code": DUPLICATE, "msg": f"duplicate task id {spec.id}"}
    return _listed(served)


async def _rebuild_source(request: Request, served: Served) -> dict[str, Any]:
    spec = _spec_of(await fields_of(request, served.services, convert=True), served)
    try:
        await served.cameras.streams.change(spec.id, lambda old: replace(spec, rules=replace(spec.rules, publish=old.rules.publish)))
        await served.cameras.streams.restart(spec.id)
    except NotFound:
        await served.cameras.streams.create(spec)
    return _listed(served)


async def _remove_source(request: Request, served: Served) -> dict[str, Any]:
    task_id = _needed(await fields_of(request, served.services, convert=True), "task_id")
    try:
        await served.cameras.streams.remove(task_id)
    except NotFound:
        return {**_listed(served), "msg": f"can not find task id {task_id}"}
    return _listed(served)


async def _update_source(request: Request, served: Served) -> dict[str, Any]:
    fields = await fields_of(request, served.services, convert=True)
    task_id = _needed(fields, "task_id")

    def updated(spec: StreamSpec) -> StreamSpec:
        sinks = _callbacks(fields, spec.sinks) if "grpc_address" in fields else spec.sinks
        return replace(spec, sinks=sinks, rules=rules_of(fields, spec.rules))

    try:
        await served.cameras.streams.change(task_id, updated)
    except NotFound:
        return {**_listed(served), "msg": f"can not find task id {task_id}"}
    return _listed(served)


async def _source_status(request: Request, served: Served) -> dict[str, Any]:
    return await _statuses(await _ids_of(request), served)


async def _statuses(task_ids: list[str], served: Served) -> dict[str, Any]:
    specs = {spec.id: spec for spec in served.cameras.streams.specs()}
    alive = {task_id: task_id in specs and _works(specs[task_id], served) for task_id in task_ids}
    return {"code": OK, "data": json.dumps(alive)}


def _works(spec: StreamSpec, served: Served) -> bool:
    """Whether a frame was analysed within the last minute; a new task has its first minute on credit."""
    analysed_at = served.cameras.streams.status(spec.id).last_analysed_at
    return int(served.services.clock.now()) - int(spec.created_at if analysed_at is None else analysed_at) < ALIVE_S


async def _pipes(request: Request, served: Served, *, publish: bool) -> dict[str, Any]:
    task_ids = await _ids_of(request)
    done = []
    for task_id in dict.fromkeys(task_ids):
        try:
            await served.cameras.streams.change(task_id, lambda spec: replace(spec, rules=replace(spec.rules, publish=publish)))
        except NotFound:
            continue
        done.append(task_id)
    verb = "create" if publish else "remove"
    return {"code": OK, "msg": f"input task ids: {task_ids}, {verb} success ids: {','.join(done)}"}


async def _get_source_list(served: Served) -> dict[str, Any]:
    return _listed(served)


def _listed(served: Served) -> dict[str, Any]:
    return {"code": OK, "source_list": [spec.id for spec in served.cameras.streams.specs()]}


async def _ids_of(request: Request) -> list[str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        values = None if kind in FORMS else orjson.loads(await short_body(request))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(BAD_REQUEST) from error
    if not isinstance(values, list) or not all(isinstance(value, str | int) for value in values):
        raise InvalidInput("the body must be a JSON array of task ids")
    if len(values) > _MAX_IDS:
        raise InvalidInput(f"the body names {len(values)} task ids, at most {_MAX_IDS} are allowed")
    return [str(value) for value in values]


def _spec_of(fields: Mapping[str, str], served: Served) -> StreamSpec:
    return StreamSpec(
        id=_needed(fields, "task_id"),
        url=_needed(fields, "rtsp_url"),
        collections=(served.services.defaults.collection,),
        rules=rules_of(fields, StreamRules(strangers=False)),
        sinks=_callbacks(fields),
        created_at=served.services.clock.now(),
    )


def _callbacks(fields: Mapping[str, str], sinks: tuple[SinkSpec, ...] = ()) -> tuple[SinkSpec, ...]:
    """``sinks`` with the receiver that ``grpc_address`` names, or none, in place of those that were there."""
    address = fields.get("grpc_address", "").strip()
    others = tuple(sink for sink in sinks if sink.kind is not SinkKind.GRPC)
    if not address:
        return others
    same = next((sink for sink in sinks if sink.kind is SinkKind.GRPC and sink.address == address), None)
    return (same or SinkSpec(SinkKind.GRPC, address), *others)


def _needed(fields: Mapping[str, str], name: str) -> str:
    if not fields.get(name):
        raise InvalidInput(BAD_REQUEST, field=name)
    return fields[name]

"""How the face server's API is spoken: forms in, status 200 and a ``code`` out, JSON as its framework writes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from face_server.api.problems import problem_of, responses, status_of
from face_server.api.services import Services
from face_server.errors import FaceServerError, InputTooLarge, InvalidInput

_log = logging.getLogger(__name__)

OK, FAILED = 200, 500

# What the original's framework says of a missing field or a body that it cannot read.
BAD_REQUEST = "400 Bad Request: The browser (or proxy) sent a request that this server could not understand."

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

# Lists up to this long are written on the event loop: handing them to a thread costs more.
SMALL_LIST = 2000

# Ten thousand task ids fit.
MAX_SHORT_BYTES = 1024 * 1024


def documented(properties: Mapping[str, Any], example: Mapping[str, str], answer: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI parts of a route: the body in its three forms, and the answer."""
    schema = {"type": "object", "properties": dict(properties)}
    content = {kind: {"schema": schema, "example": dict(example)} for kind in (*FORMS, "application/json")}
    extra = {"openapi_extra": {"requestBody": {"content": content}}} if properties else {}
    return {"response_class": Response, "responses": answers(answer), **extra}


def answers(members: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the answer of a route: ``code``, ``msg`` and ``members``."""
    described = {
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": {"type": "integer", "description": "200 done; others not done, see `msg`; 500 failed."},
            "msg": {"type": "string"},
            **members,
        },
    }
    return responses() | {200: {"description": "See `code`.", "content": {"application/json": {"schema": described}}}}


async def reply(work: Awaitable[dict[str, Any]], services: Services) -> Response:
    """The answer to what ``work`` returns or raises."""
    try:
        values = await work
    except FaceServerError as error:
        if status_of(error) >= FAILED:
            _log.error("%s: %s", type(error).__name__, error.message)
        values = {"code": FAILED, "msg": problem_of(error)["detail"]}
    small = len(values.get("face_list", ())) <= SMALL_LIST
    content = _to_json(values) if small else await services.workers.run(_to_json, values)
    return Response(content, media_type="application/json")


def _to_json(values: Mapping[str, Any]) -> bytes:
    """JSON as the original writes it: ASCII, keys sorted, no blanks, a newline at the end."""
    return (json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


async def short_body(request: Request) -> bytes:
    """A body without pictures. Raises InputTooLarge beyond ``MAX_SHORT_BYTES``: to read it would stop the event loop."""
    body = await request.body()
    if len(body) > MAX_SHORT_BYTES:
        raise InputTooLarge(f"the body has {len(body)} bytes, at most {MAX_SHORT_BYTES} are allowed here")
    return body


async def fields_of(request: Request, services: Services, *, convert: bool = False) -> dict[str, str]:
    """The text fields of a form or JSON body; ``convert`` writes numbers and objects in JSON as forms have them.

    Raises InvalidInput with the original's words; InputTooLarge for more than ``MAX_SHORT_BYTES`` to convert.
    """
    if convert:
        await short_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in FORMS:
            async with request.form(max_files=8, max_fields=32, max_part_size=services.defaults.max_body_bytes) as form:
                fields = dict(form.items())
        else:
            fields = orjson.loads(await request.body())
    except (HTTPException, KeyError, orjson.JSONDecodeError) as error:
        raise InvalidInput(BAD_REQUEST) from error
    if not isinstance(fields, dict):
        raise InvalidInput(BAD_REQUEST)
    texts = {name: _text(value) for name, value in fields.items()} if convert else fields
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _text(value: object) -> str | None:
    """A field as a form would hold it, None for files and what has no such form."""
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None

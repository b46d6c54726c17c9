"""Errors as RFC 9457 problems. The only place that knows which HTTP status an error becomes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from face_server import errors
from face_server.telemetry import Seldom, request_id

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)
_refusals = Seldom()

_STATUS: Mapping[type[errors.FaceServerError], HTTPStatus] = {
    errors.InputTooLarge: HTTPStatus.CONTENT_TOO_LARGE if hasattr(HTTPStatus, "CONTENT_TOO_LARGE") else HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.FaceServerError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

# Invalid input that HTTP has a status of its own for.
_STATUS_OF_CODE = {
    "malformed_body": HTTPStatus.BAD_REQUEST,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "body_timeout": HTTPStatus.REQUEST_TIMEOUT,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
}

_CODE_OF_STATUS = {
    400: "malformed_body",
    404: "no_such_route",
    405: "method_not_allowed",
    413: "input_too_large",
    415: "unsupported_media_type",
}

# What pydantic calls the place of a value in the request; callers know the field without it.
_PLACES = frozenset({"body", "query", "path", "header", "cookie"})


# Pydantic also names the member of a union that it tried.
_UNION_MEMBERS = frozenset({"str", "bytes", "float", "int", "bool"})


class Problem(BaseModel):
    """A problem after RFC 9457: what went wrong, in one sentence, and which field is to blame."""

    type: str = Field("about:blank", description="Always `about:blank`: `code` tells kinds apart.")
    title: str = Field(description="Name of the status.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="One sentence for people.", examples=["the data is not an image in a supported format"])
    code: str = Field(description="Stable name of the kind of problem, for programs.", examples=["invalid_image"])
    field: str | None = Field(None, description="The field to blame, where known.", examples=["images[0]"])
    reasons: list[str] | None = Field(None, description="Every rule that refused a picture.", examples=[["small_face"]])
    request_id: str | None = Field(None, description="The `x-request-id` of the answer; also in the server's log.")


def status_of(error: errors.FaceServerError) -> HTTPStatus:
    """The HTTP status of an error, by its code, else by the nearest class in the tree."""
    if isinstance(error, errors.AccessDenied):
        return HTTPStatus.FORBIDDEN if error.authenticated else HTTPStatus.UNAUTHORIZED
    if error.code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[error.code]
    return next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)


def problem(status: int, code: str, detail: str, *, field: str | None = None, reasons: Sequence[str] | None = None) -> dict[str, Any]:
    """The members of a problem; those without a value are left out."""
    members = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "field": field,
        "reasons": list(reasons) if reasons else None,
        "request_id": request_id.get(),
    }
    return {name: value for name, value in members.items() if value is not None}


def problem_of(error: errors.FaceServerError, *, field: str | None = None) -> dict[str, Any]:
    """The problem of an error; ``field`` overrides the one that the error names.

    Errors that are no caller's fault keep their details to the log.
    """
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(status, "internal_error", "the server failed; its log has the details under the request id")
    reasons = error.reasons if isinstance(error, errors.FaceRejected) else None
    return problem(status, error.code, error.message, field=field or error.field, reasons=reasons)


def headers_of(error: errors.FaceServerError) -> dict[str, str]:
    """The headers that go with an error: when to retry, how to authenticate."""
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, errors.AccessDenied) and not error.authenticated:
        return {"www-authenticate": 'Bearer realm="face_server"'}
    return {}


def problem_reply(members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """An HTTP answer that carries a problem."""
    return Response(orjson.dumps(members), int(members["status"]), dict(headers or {}), MEDIA_TYPE)


def reply_to(error: errors.FaceServerError) -> Response:
    """The HTTP answer to an error; logs the ones that are the server's fault, and the same refusal only now and then."""
    members = problem_of(error)
    if members["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", type(error).__name__, error.message, exc_info=error)
    elif members["status"] > HTTPStatus.INTERNAL_SERVER_ERROR and _refusals.is_due(error.message, time.monotonic()):
        _log.error("%s: %s", type(error).__name__, error.message)
    return problem_reply(members, headers_of(error))


def reply_to_unexpected(error: Exception) -> Response:
    """The HTTP answer to an error that nobody foresaw: logged whole, told without details."""
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    return problem_reply(problem_of(errors.FaceServerError("unexpected")))


def invalid(error: ValidationError | RequestValidationError, *, place: str = "") -> errors.InvalidInput:
    """Pydantic's findings as one InvalidInput: the first field, what it must be, and how many more.

    ``place`` is put in front of the field's path. Values are never repeated.
    """
    found = error.errors()
    first = found[0]
    if first["type"] == "json_invalid":
        return errors.InvalidInput("the body is not valid JSON", code="malformed_body")
    loc = [part for part in first["loc"] if part not in _PLACES or part != first["loc"][0]]
    field = field_path([place, *loc] if place else loc)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    sentence = str(first["msg"])
    sentence = sentence[:1].lower() + sentence[1:]
    subject = f"{field}: " if field else ""
    return errors.InvalidInput(f"{subject}{sentence}{more}", field=field or None)


def field_path(parts: Sequence[str | int]) -> str:
    """``("images", 3, "url")`` as ``images[3].url``; the names of union members are left out."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif (part.isidentifier() or "-" in part) and part not in _UNION_MEMBERS:
            path += f".{part}" if path else part
    return path


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem."""
    app.add_exception_handler(errors.FaceServerError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.FaceServerError)
    return reply_to(error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return reply_to(invalid(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, "http_error")
    details = {
        404: f"there is nothing at {request.url.path[:200]}",
        405: f"{request.method} is not allowed at this address",
    }
    detail = details.get(error.status_code, str(error.detail))
    return problem_reply(problem(error.status_code, code, detail), error.headers)


_DOCUMENTED = {
    400: "The body cannot be parsed.",
    401: "An API key is missing or unknown.",
    403: "The API key lacks the role.",
    404: "Nothing is stored under a name or id.",
    408: "The body did not arrive in time.",
    409: "The request contradicts what is stored, or embeddings of different models meet.",
    413: "More bytes, pixels or items than the limit.",
    415: "The content type is none of the documented ones.",
    422: "A field cannot be used as it is.",
    500: "The server failed; its log has the details.",
    503: "A bound is reached or a dependency is away; `Retry-After` says when to come back.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the problems of a route: those every route may meet, and ``statuses``."""
    always = (400, 401, 403, 408, 413, 422, 500, 503)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DOCUMENTED[status], "content": content} for status in sorted({*always, *statuses})}

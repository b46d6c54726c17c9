"""Request bodies of every accepted kind, read into one typed model.

A JSON or msgpack body is the model. In a multipart body, and beside a raw picture, the
model's plain fields come as form fields or query parameters, and pictures as files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin

import msgpack  # type: ignore[import-untyped]  # ships no types
import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from face_server.api.deps import ServicesDep
from face_server.api.json_bodies import parse_json
from face_server.api.problems import invalid
from face_server.api.services import Services
from face_server.errors import InputTooLarge, InvalidInput

JSON = "application/json"
MULTIPART = "multipart/form-data"
MSGPACK = ("application/msgpack", "application/x-msgpack")
RAW = "application/octet-stream"

# Bodies up to this size are parsed on the event loop: handing them to a thread costs more.
_INLINE_BYTES = 64 * 1024
_FORM_CHUNK_BYTES = 128 * 1024


class RequestModel(BaseModel):
    """Base of request bodies. Unknown fields are refused, so that a misspelt option is noticed.

    ``files`` maps names of uploaded files to the field they fill; ``raw`` is the field that a raw
    body fills ("" where raw bodies make no sense). ``max_bytes`` bounds bodies without pictures, 0
    leaves it to the server's limit: to check millions of numbers stops the event loop for seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: ClassVar[Mapping[str, str]] = {}
    raw: ClassVar[str] = ""
    max_bytes: ClassVar[int] = 0


class ShortModel(RequestModel):
    """Base of request bodies that hold neither pictures nor vectors: the largest that makes sense has some 100 KB."""

    max_bytes: ClassVar[int] = 256 * 1024


class PicturesModel(RequestModel):
    """Base of request bodies whose ``images`` may be uploaded under any of the usual names."""

    files: ClassVar[Mapping[str, str]] = {"files": "images", "file": "images", "images": "images", "image": "images"}
    raw: ClassVar[str] = "images"


M = TypeVar("M", bound=RequestModel)


class BodyReader(Generic[M]):
    """Reads request bodies into one model. ``Depends(BodyReader(DetectRequest).read)`` is a parameter."""

    def __init__(self, model: type[M], *, optional: bool = False) -> None:
        self.model = model
        self.optional = optional
        self._adapters = {name: _adapter(info) for name, info in model.model_fields.items() if name not in model.files.values()}
        self._lists = {name for name in model.files.values() if _is_list(model.model_fields[name].annotation)}

    @property
    def media_types(self) -> tuple[str, ...]:
        """The content types a body may have; a raw picture may also say ``image/*``."""
        forms = (MULTIPART,) if self.model.files else ()
        raw = ("image/*", RAW) if self.model.raw else ()
        return (JSON, *forms, *raw, *MSGPACK)

    async def read(self, request: Request, services: ServicesDep) -> M:
        """The request's body and query as the model.

        Raises InvalidInput that names the field; ``malformed_body`` for bytes that cannot be
        parsed, ``unsupported_media_type`` for other content types.
        """
        values = self._typed(dict(request.query_params), "query") if self.model.raw else {}
        body = await self._body(request, services)
        try:
            return self.model.model_validate({**values, **body}, strict=True)
        except ValidationError as error:
            raise invalid(error) from error

    async def _body(self, request: Request, services: Services) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        data = await request.body()
        if 0 < self.model.max_bytes < len(data):
            raise InputTooLarge(f"the body has {len(data)} bytes, at most {self.model.max_bytes} are allowed here")
        if not data and not kind and self.optional:
            return {}
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidInput("compressed bodies are not accepted", code="unsupported_media_type", field="content-encoding")
        if kind == JSON or (kind.startswith("application/") and kind.endswith("+json")):
            return await _parsed(data, _from_json, services)
        if kind in MSGPACK:
            return await _parsed(data, _from_msgpack, services)
        if self.model.files and kind == MULTIPART:
            return await self._form(request, data, services)
        if self.model.raw and (kind == RAW or kind.startswith("image/")):
            return {self.model.raw: [data] if self.model.raw in self._lists else data}
        known = ", ".join(self.media_types)
        raise InvalidInput(f"the content type must be one of {known}", code="unsupported_media_type", field="content-type")

    async def _form(self, request: Request, data: bytes, services: Services) -> dict[str, Any]:
        form = await _parse_form(request, data, services)
        texts: dict[str, str] = {}
        values: dict[str, Any] = {}
        try:
            for name, part in form.multi_items():
                if name not in self.model.files:
                    if isinstance(part, UploadFile):
                        names = ", ".join(self.model.files)
                        raise InvalidInput(f"{name[:64]!r} is not the name of a file here; use one of {names}", field=name[:64])
                    texts |= {name: part} if part else {}
                    continue
                field = self.model.files[name]
                content = await part.read() if isinstance(part, UploadFile) else part
                if not content and not (isinstance(part, UploadFile) and part.filename):
                    continue
                if field in self._lists:
                    values.setdefault(field, []).append(content)
                else:
                    values[field] = content
        finally:
            await form.close()
        return {**self._typed(texts, "form"), **values}

    def _typed(self, texts: Mapping[str, str], place: str) -> dict[str, Any]:
        """Texts of a form or query as the types of their fields; lists and objects are JSON texts."""
        values: dict[str, Any] = {}
        for name, text in texts.items():
            adapter = self._adapters.get(name)
            if adapter is None:
                allowed = ", ".join(self._adapters) or "none"
                raise InvalidInput(f"{name[:64]!r} is not a {place} field of this request; there are: {allowed}", field=name[:64])
            try:
                if _is_structure(self.model.model_fields[name].annotation) and text[:1] in {"[", "{"}:
                    values[name] = adapter.validate_json(text, strict=True)
                else:
                    values[name] = adapter.validate_python(text)
            except ValidationError as error:
                raise invalid(error, place=name) from error
        return values


async def _parsed(data: bytes, parse: Callable[[bytes], Any], services: Services) -> dict[str, Any]:
    parsed = parse(data) if len(data) <= _INLINE_BYTES else await services.workers.run(parse, data)
    if not isinstance(parsed, dict):
        raise InvalidInput("the body must be an object with the documented fields")
    return parsed


def _from_json(data: bytes) -> Any:
    try:
        return parse_json(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON (at byte {error.pos})", code="malformed_body") from error


def _from_msgpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise InvalidInput("the body is not valid msgpack", code="malformed_body") from error


async def _parse_form(request: Request, data: bytes, services: Services) -> FormData:
    limit = services.intake.limits.max_images
    parser = MultiPartParser(request.headers, _in_chunks(data), max_files=limit, max_fields=limit + 100, max_part_size=len(data) + 1)
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise InputTooLarge(f"more than {limit} parts in one request, at most {limit} images are allowed", field="files") from error
        raise InvalidInput(f"the body is not valid multipart/form-data: {error.message[:200]}", code="malformed_body") from error
    except KeyError as error:
        raise InvalidInput("the content type names no multipart boundary", code="malformed_body", field="content-type") from error


async def _in_chunks(data: bytes) -> AsyncGenerator[bytes, None]:
    """The body in pieces, so that parsing a large form leaves the event loop free in between."""
    for start in range(0, len(data), _FORM_CHUNK_BYTES):
        yield data[start : start + _FORM_CHUNK_BYTES]
        await asyncio.sleep(0)
    yield b""


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    annotated: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(annotated)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(member) is list for member in _members(annotation))


def _is_structure(annotation: Any) -> bool:
    return any(get_origin(member) in {list, dict} for member in _members(annotation))

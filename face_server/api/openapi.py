"""The OpenAPI document: what FastAPI derives, and the request bodies that routes read themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from face_server.api.bodies import JSON, MSGPACK, MULTIPART, RAW, BodyReader, RequestModel

_REF = "#/components/schemas/{model}"
_FILE = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_RAW_EXAMPLE = {"type": "string", "format": "binary", "description": "The picture; options go in the query."}

Schema = dict[str, Any]

DESCRIPTION = """
Detect faces, compute embeddings, verify 1:1, identify 1:N, and keep the gallery of who can be recognised.
Register cameras as streams, read or follow the events of who was seen on them, and name strangers.

Pictures may be sent as JSON (base64 with or without a `data:` prefix, or a URL), as multipart files,
as a raw body with the options in the query, or as msgpack. Boxes and landmarks are in pixels of the
upright picture. Every embedding belongs to a model; embeddings of different models are never compared.

Errors are problems after RFC 9457. Every answer has an `x-request-id`.
"""

TAGS = [
    {"name": "faces", "description": "Pictures in, faces out."},
    {"name": "recognition", "description": "Verification 1:1 and identification 1:N."},
    {"name": "collections", "description": "Templates that are searched together."},
    {"name": "identities", "description": "Who can be recognised."},
    {"name": "templates", "description": "The embeddings that people are recognised by."},
    {"name": "streams", "description": "Cameras and files that are watched for as long as they are registered."},
    {"name": "events", "description": "What happened on the streams."},
    {"name": "strangers", "description": "Unknown people who are remembered."},
    {"name": "system", "description": "Health, metrics and information."},
]


def document(app: FastAPI, routers: Sequence[APIRouter]) -> Schema:
    """The whole OpenAPI document of ``app``, whose routes are those of ``routers``."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
        separate_input_output_schemas=False,
    )
    readers = dict(_readers(routers))
    models = {reader.model for reader in readers.values()}
    names, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda one: one.__name__)], ref_template=_REF
    )
    components: Schema = schema.setdefault("components", {}).setdefault("schemas", {})
    for name, definition in definitions.get("$defs", {}).items():
        components.setdefault(name, definition)
    operations = {
        operation["operationId"]: operation
        for path in schema["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    }
    for operation_id, reader in readers.items():
        reference: Schema = names[reader.model, "validation"]
        _describe(operations[operation_id], reader, reference, components)
    return schema


def _readers(routers: Sequence[APIRouter]) -> Iterator[tuple[str, BodyReader[Any]]]:
    for router in routers:
        for route in router.routes:
            if not isinstance(route, APIRoute) or route.operation_id is None:
                continue
            for dependency in route.dependant.dependencies:
                reader = getattr(dependency.call, "__self__", None)
                if isinstance(reader, BodyReader):
                    yield route.operation_id, reader


def _describe(operation: Schema, reader: BodyReader[Any], reference: Schema, components: Schema) -> None:
    """Write the request body and the options in the query into one operation."""
    model = components[reference["$ref"].rpartition("/")[2]]
    content: Schema = {JSON: {"schema": reference}}
    if reader.model.files:
        content[MULTIPART] = {"schema": _form(reader.model, model)}
    if reader.model.raw:
        content |= {media_type: {"schema": _RAW_EXAMPLE} for media_type in (RAW, "image/*")}
        options = _options(reader.model, model)
        operation.setdefault("parameters", []).extend(_parameter(name, property_) for name, property_ in options.items())
    content[MSGPACK[0]] = {"schema": reference}
    operation["requestBody"] = {"required": not reader.optional, "content": content}


def _options(model: type[RequestModel], schema: Schema) -> Schema:
    """The fields that fit in a form or a query: all but pictures and embeddings; none may be null there."""
    left_out = {*model.files.values(), "embeddings", "probe_embedding", "reference_embedding"}
    return {name: _without_null(property_) for name, property_ in schema["properties"].items() if name not in left_out}


def _form(model: type[RequestModel], schema: Schema) -> Schema:
    files: Schema = {}
    for name, field in model.files.items():
        if schema["properties"][field].get("type") != "array":
            files |= {name: _FILE} if name == field else {}
        elif name == "files":
            files[name] = {"type": "array", "items": _FILE, "description": "The pictures. One may also be sent as `file`."}
    required = [name for name in schema.get("required", []) if name not in model.files.values()]
    return {
        "type": "object",
        "properties": files | _options(model, schema),
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _parameter(name: str, property_: Schema) -> Schema:
    """A query parameter; only raw bodies and forms need it, so it is never required."""
    schema = {key: value for key, value in property_.items() if key != "description"}
    place: Schema = {"content": {JSON: {"schema": schema}}} if schema.get("type") == "object" else {"schema": schema}
    return {"name": name, "in": "query", "required": False, "description": property_.get("description", ""), **place}


def _without_null(schema: Schema) -> Schema:
    """A form or query cannot say null: what may be null is left out instead."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    return {**kinds[0], **rest}

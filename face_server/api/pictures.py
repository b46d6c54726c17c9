"""Pictures and embeddings as callers may write them in a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import WithJsonSchema

from face_server.api.examples import FACE_BASE64
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.ports import ImageCodec
from face_server.errors import FaceServerError, InvalidInput
from face_server.pipeline.intake import Base64Picture, RemotePicture, Source

Picture = Annotated[
    str | bytes,
    WithJsonSchema(
        {
            "type": "string",
            "description": "A compressed picture (JPEG, PNG, WebP, BMP, TIFF, GIF) as base64, with or without a `data:` prefix, "
            "or its http(s) URL. In msgpack also its bytes.",
            "examples": [FACE_BASE64, "https://example.org/photo.jpg"],
        }
    ),
]
"""A picture in a request: base64 text, a URL, or (msgpack, multipart, raw bodies) its bytes."""

EmbeddingValues = Annotated[
    list[float] | str | bytes,
    WithJsonSchema(
        {
            "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
            "description": "An embedding: its values, or base64 of their float32 little-endian bytes (in msgpack also these bytes).",
        }
    ),
]
"""An embedding in a request."""


def source_of(picture: str | bytes) -> Source:
    """Where the pixels of a picture in a request come from.

    Text with a scheme (``https://…``) is an address, whichever scheme it is: the fetcher says which
    are allowed. Other text is base64.
    """
    if isinstance(picture, bytes):
        return picture
    return RemotePicture(picture) if "://" in picture[:32] else Base64Picture(picture)


def sources_of(pictures: Sequence[str | bytes]) -> list[Source]:
    """``source_of`` for each picture."""
    return [source_of(picture) for picture in pictures]


async def embedding_of(values: list[float] | str | bytes, model: ModelId, codec: ImageCodec, *, field: str) -> Embedding:
    """The embedding that a caller sent, taken to be one of ``model``.

    Raises InvalidInput that names ``field`` for a wrong length, NaN, infinity, or all zeros.
    """
    try:
        if isinstance(values, list):
            # A number beyond float32 becomes infinity, which from_values refuses.
            with np.errstate(over="ignore", invalid="ignore"):
                return Embedding.from_values(values, model)
        return _from_bytes(values if isinstance(values, bytes) else await codec.decode_base64(values), model)
    except InvalidInput as error:
        raise InvalidInput(error.message, code="invalid_embedding", field=field) from error


def _from_bytes(data: bytes, model: ModelId) -> Embedding:
    expected = 4 * model.dimension
    if len(data) != expected:
        raise InvalidInput(f"an embedding of {model} has {model.dimension} float32 values in {expected} bytes, got {len(data)} bytes")
    with np.errstate(over="ignore", invalid="ignore"):
        return Embedding.from_values(np.frombuffer(data, "<f4"), model)


def requested_model(text: str | None, own: ModelId) -> ModelId:
    """The model that a caller says made the embeddings; this server's if the caller says nothing."""
    if text is None:
        return own
    try:
        return ModelId.parse(text)
    except InvalidInput as error:
        raise InvalidInput(error.message, code=error.code, field="model") from error


def blame(error: FaceServerError, field: str) -> FaceServerError:
    """The same error, with ``field`` to blame if the error names none or only says "image"."""
    if error.field in {None, "image", "images"}:
        error.field = field
    return error


def schema_of_file() -> dict[str, Any]:
    """The OpenAPI schema of an uploaded file."""
    return {"type": "string", "format": "binary"}

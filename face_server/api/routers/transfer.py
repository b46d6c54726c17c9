"""A collection as one file: export and import."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse

from face_server.api.bodies import MULTIPART, RAW
from face_server.api.deps import CollectionName, ServicesDep
from face_server.api.problems import responses
from face_server.api.rendering import json_reply
from face_server.api.schemas.gallery import ImportAnswer
from face_server.api.security import ADMIN
from face_server.errors import InvalidInput
from face_server.pipeline.transfer import Clash, Transfer
from face_server.workers import Workers

router = APIRouter(prefix="/v1/collections/{collection}", tags=["collections"])

ZIP = "application/zip"
_PIECE_BYTES = 1024 * 1024

_BINARY = {"type": "string", "format": "binary"}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {"schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"], "additionalProperties": False}},
            RAW: {"schema": _BINARY},
            ZIP: {"schema": _BINARY},
        },
    }
}


@router.get(
    "/export",
    operation_id="export_collection",
    summary="Export a collection as one file",
    dependencies=[ADMIN],
    response_class=Response,
    responses=responses(404, 409) | {200: {"content": {ZIP: {"schema": _BINARY}}, "description": "The file."}},
)
async def export_collection(
    collection: CollectionName,
    services: ServicesDep,
    crops: Annotated[bool, Query(description="Whether to put the aligned crops into the file.")] = True,
) -> Response:
    """Get identities, metadata, templates with their vectors, the model id and, if wanted, the crops as one file.

    The file is complete before the first byte is sent.
    """
    workers = services.workers
    async with _scratch(workers) as folder:
        path = folder / "export"
        report = await Transfer(services.gallery, workers).export_file(collection, path, crops=crops)
        # Open files outlive their names: whatever becomes of the answer, nothing stays behind.
        file = await workers.run(path.open, "rb")
    headers = {"content-disposition": f'attachment; filename="{collection}.zip"', "content-length": str(report.bytes)}
    return StreamingResponse(_pieces(file, workers), media_type=ZIP, headers=headers)


@router.post(
    "/import",
    operation_id="import_collection",
    summary="Import a collection from a file",
    dependencies=[ADMIN],
    response_model=ImportAnswer,
    responses=responses(409, 415),
    openapi_extra=_UPLOAD,
)
async def import_collection(
    collection: CollectionName,
    request: Request,
    services: ServicesDep,
    clash: Annotated[
        Clash, Query(description="What to do with ids that the collection has already: `fail`, `skip` what is there, or `replace` it.")
    ] = Clash.FAIL,
) -> Response:
    """Import an exported file into a collection, which is made if it does not exist.

    The file is checked whole before anything is stored. Its model must be the collection's.
    """
    async with _scratch(services.workers) as folder:
        path = folder / "import"
        await _receive(request, path, services.workers)
        report = await Transfer(services.gallery, services.workers).import_file(path, collection=collection, clash=clash)
    return json_reply(asdict(report))


@asynccontextmanager
async def _scratch(workers: Workers) -> AsyncIterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(await workers.run(tempfile.mkdtemp, prefix="face_server-"))
    try:
        yield folder
    finally:
        await workers.run(shutil.rmtree, folder, ignore_errors=True)


async def _pieces(file: BinaryIO, workers: Workers) -> AsyncIterator[bytes]:
    try:
        while piece := await workers.run(file.read, _PIECE_BYTES):
            yield piece
    finally:
        file.close()


async def _receive(request: Request, path: Path, workers: Workers) -> None:
    """Write the uploaded file to ``path`` as it arrives."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        await _receive_form(request, path, workers)
    elif kind in {RAW, ZIP}:
        with await workers.run(path.open, "wb") as file:
            async for piece in request.stream():
                await workers.run(file.write, piece)
            await workers.run(file.flush)
    else:
        raise InvalidInput(
            f"the content type must be one of {MULTIPART}, {RAW}, {ZIP}", code="unsupported_media_type", field="content-type"
        )


async def _receive_form(request: Request, path: Path, workers: Workers) -> None:
    try:
        form = await MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        raise InvalidInput("the body is no multipart/form-data with one file named 'file'", code="malformed_body", field="file") from error
    try:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise InvalidInput("send the exported file as 'file'", field="file")
        with await workers.run(path.open, "wb") as file:
            await workers.run(shutil.copyfileobj, upload.file, file, _PIECE_BYTES)
    finally:
        await form.close()

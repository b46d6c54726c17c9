"""The face server's HTTP API for pictures: ``/image_recog``, ``/add_face``, ``/del_face``, ``/get_face_list``.

Every handled request is answered with status 200; ``code`` in the body says what happened. Bodies
are forms (multipart or urlencoded) or JSON objects with the same fields.

Names live in the default collection, one identity a name. What differs from the original server:
a face is matched when its similarity reaches the collection's threshold, which follows from its
target FPIR and its size instead of the fixed 0.35; pictures are turned upright by their EXIF
orientation; addresses go through the guarded fetcher, which reads no files and no private
networks; ``img_base64`` is accepted in place of ``img_url``. Like there, a new face is stored
however poor the picture is, as long as it shows exactly one, and the receiver at ``grpc_address``
is told of it once, without anybody waiting for that: a failure is logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from fastapi import APIRouter, Request, Response

from face_server.api.compat.face_server_forms import BAD_REQUEST, OK, SMALL_LIST, documented, fields_of, reply
from face_server.api.deps import ServedDep, ServicesDep
from face_server.api.examples import PICTURE_BASE64
from face_server.api.security import OPERATE, READ
from face_server.api.services import Served, Services
from face_server.domain.face import Face
from face_server.domain.identity import Identity, RemoveIdentity
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions
from face_server.errors import FaceRejected, InvalidInput, Unavailable
from face_server.pipeline.enrollment import new_id
from face_server.pipeline.intake import Base64Picture, Reading, RemotePicture, Source
from face_server.pipeline.recognition import IdentifyOptions

_log = logging.getLogger(__name__)

router = APIRouter(tags=["Face server"])

UNREADABLE, NO_SUCH_NAME, NAME_TAKEN, NO_FACE, SEVERAL_FACES = -1, -1, -2, -2, -3
UNKNOWN_NAME, UNKNOWN_CONF = "notfound", -2.0

MAX_NAME_LENGTH = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_PAGE = 1000
_CROP_QUALITY = 92

# Held while a name is checked and given away. An entry goes as soon as nobody holds or awaits it.
_name_gates: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

_URL = {"type": "string", "description": "http(s) address of the picture.", "examples": ["https://example.org/photo.jpg"]}
_BASE64 = {"type": "string", "description": "The picture as base64, in place of `img_url`.", "examples": [PICTURE_BASE64]}
_NAME = {"type": "string", "description": "Name of the person, in any script.", "examples": ["张三"]}
_GRPC = {
    "type": "string",
    "description": "`host:port` of a receiver that is told of the new face, once.",
    "examples": ["192.168.1.9:50051"],
}


_FACE_LIST = {"face_list": {"type": "array", "items": {"type": "string"}}}
_FACE_DATA = {
    "face_data": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["bbox", "conf", "name"],
            "properties": {
                "bbox": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 5,
                    "maxItems": 5,
                    "description": "x1, y1, x2, y2, score.",
                },
                "conf": {"type": "number", "description": "Similarity; -2.0 for an unknown person."},
                "name": {"type": "string", "description": "`notfound` for an unknown person."},
            },
        },
    }
}


@router.post(
    "/image_recog",
    dependencies=[READ],
    **documented({"img_url": _URL, "img_base64": _BASE64}, {"img_base64": PICTURE_BASE64}, _FACE_DATA),
)
async def image_recog(request: Request, services: ServicesDep) -> Response:
    """Name every face of a picture; people who are not in the face list are `notfound`."""
    return await reply(_image_recog(request, services), services)


@router.post(
    "/add_face",
    dependencies=[OPERATE],
    **documented(
        {"face_name": _NAME, "img_url": _URL, "img_base64": _BASE64, "grpc_address": _GRPC},
        {"face_name": "张三", "img_base64": PICTURE_BASE64},
        _FACE_LIST,
    ),
)
async def add_face(request: Request, served: ServedDep) -> Response:
    """Remember the one face of a picture under a new name."""
    return await reply(_add_face(request, served), served.services)


@router.delete("/del_face", dependencies=[OPERATE], **documented({"face_name": _NAME}, {"face_name": "张三"}, _FACE_LIST))
async def del_face(request: Request, services: ServicesDep) -> Response:
    """Forget a name with all its templates."""
    return await reply(_del_face(request, services), services)


@router.post("/get_face_list", dependencies=[READ], **documented({}, {}, _FACE_LIST))
async def get_face_list(services: ServicesDep) -> Response:
    """All names, in the order in which they were added."""
    return await reply(_with_list(OK, None, services), services)


async def _image_recog(request: Request, services: Services) -> dict[str, Any]:
    source, shown = _picture_of(await fields_of(request, services))
    reading = await _read(source, services, max_size_px=services.defaults.max_size_px)
    if reading is None:
        return {"code": UNREADABLE, "msg": f"img {shown} is none", "face_data": []}
    defaults = services.defaults
    options = AnalysisOptions(defaults.min_score, defaults.max_size_px, max_faces=defaults.max_faces, quality=False)
    (faces,) = await services.analyzer.analyze([reading.image], options)
    decisions = await services.recognition.identify_faces(defaults.collection, faces, IdentifyOptions(limit=1))
    face_data = []
    for face, decision in zip(faces, decisions, strict=True):
        box, match = face.detection.box, decision.match
        face_data.append(
            {
                "name": match.identity.name if match else UNKNOWN_NAME,
                "conf": float(match.similarity) if match else UNKNOWN_CONF,
                "bbox": [float(value) for value in (box.x1, box.y1, box.x2, box.y2, face.detection.score)],
            }
        )
    return {"code": OK, "face_data": face_data}


async def _add_face(request: Request, served: Served) -> dict[str, Any]:
    services = served.services
    fields = await fields_of(request, services)
    name = _name_of(fields)
    source, shown = _picture_of(fields)
    reading = await _read(source, services, digest=True)
    if reading is None:
        return await _with_list(UNREADABLE, f"img {shown} is none", services)
    async with _name_gate(name, services):
        if await services.gallery.identities(services.defaults.collection, name=name, limit=1):
            return await _with_list(NAME_TAKEN, f"face name {name} already in face database", services)
        count = await _count_faces(reading.image, services)
        if count == 1:
            try:
                identity = Identity(new_id(), name)
                enrolled = await services.enrollment.enroll(services.defaults.collection, identity, reading, override=True)
                await _call_back(fields.get("grpc_address", "").strip(), name, enrolled.face, served)
            except FaceRejected:
                # Enrolment looks at the picture with settings of its own, and may see no face in it.
                count = 0
    if count != 1:
        return await _with_list(SEVERAL_FACES if count else NO_FACE, f"face num in {shown} is {count}", services)
    return await _with_list(OK, None, services)


async def _call_back(address: str, name: str, face: Face | None, served: Served) -> None:
    """Have a receiver told of a new face, if one was named."""
    if address and face is not None and face.crop is not None:
        served.cameras.callbacks.tell(address, name, await served.services.codec.encode_jpeg(face.crop, quality=_CROP_QUALITY))


async def _del_face(request: Request, services: Services) -> dict[str, Any]:
    name = _name_of(await fields_of(request, services))
    collection = services.defaults.collection
    async with _name_gate(name, services):
        found = await services.gallery.identities(collection, name=name, limit=_PAGE)
        if found:
            await services.gallery.apply(collection, [RemoveIdentity(identity.id) for identity in found])
    return await _with_list(OK, None, services) if found else await _with_list(NO_SUCH_NAME, f"face_name {name} not in face list", services)


async def _with_list(code: int, message: str | None, services: Services) -> dict[str, Any]:
    identities: list[Identity] = []
    while page := await services.gallery.identities(
        services.defaults.collection, after=identities[-1].id if identities else "", limit=_PAGE
    ):
        identities += page
    small = len(identities) <= SMALL_LIST
    values = {"code": code, "face_list": _names(identities) if small else await services.workers.run(_names, identities)}
    return values if message is None else values | {"msg": message}


def _names(identities: list[Identity]) -> list[str]:
    """Each name once, in the order in which they were added."""
    return list(dict.fromkeys(identity.name for identity in sorted(identities, key=lambda one: (one.created_at, one.id))))


def _name_of(fields: Mapping[str, str]) -> str:
    name = fields.get("face_name")
    if name is None:
        raise InvalidInput(BAD_REQUEST)
    if not 0 < len(name) <= MAX_NAME_LENGTH or _CONTROL.search(name):
        raise InvalidInput(f"face_name must be 1 to {MAX_NAME_LENGTH} characters without control characters", field="face_name")
    return name


def _picture_of(fields: Mapping[str, str]) -> tuple[Source, str]:
    """Where the picture is, and what messages call it."""
    if "img_url" in fields:
        return RemotePicture(fields["img_url"]), fields["img_url"]
    if "img_base64" in fields:
        return Base64Picture(fields["img_base64"]), "img_base64"
    raise InvalidInput(BAD_REQUEST)


async def _read(source: Source, services: Services, *, max_size_px: int | None = None, digest: bool = False) -> Reading | None:
    """The picture, or None where it cannot be had: the original knows one code for every reason."""
    try:
        return await services.intake.read(source, max_size_px=max_size_px, digest=digest)
    except (InvalidInput, Unavailable) as error:
        _log.info("a picture could not be read: %s", error.message)
        return None


async def _count_faces(image: Image, services: Services) -> int:
    options = AnalysisOptions(services.defaults.min_score, services.defaults.max_size_px, embed=False, quality=False)
    (faces,) = await services.analyzer.analyze([image], options)
    return len(faces)


def _name_gate(name: str, services: Services) -> asyncio.Lock:
    return _name_gates.setdefault((id(services.gallery), name), asyncio.Lock())

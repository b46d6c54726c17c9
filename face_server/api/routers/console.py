"""The console: the page that people see. It is static, and works through the API like everybody else."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import HTMLResponse, Response

from face_server import web
from face_server.api.deps import ServicesDep
from face_server.api.problems import invalid
from face_server.api.security import READ
from face_server.pipeline.intake import RemotePicture, Source

router = APIRouter(include_in_schema=False)

_PAGE = (Path(web.__file__).parent / "console.html").read_text(encoding="utf-8")

# Scripts and styles from our own files only, and no text may become markup.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_JPEG_QUALITY = 95


class _Address(BaseModel):
    """Where a picture is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1, max_length=8192)


@router.get("/")
async def console() -> Response:
    """The page."""
    headers = {
        "content-security-policy": _POLICY,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return HTMLResponse(_PAGE, headers=headers)


@router.post("/console/picture", dependencies=[READ])
async def picture(request: Request, services: ServicesDep) -> Response:
    """The picture at a URL (``{"url": …}``) or in the body, upright and as JPEG.

    So that the page can show what a browser may not fetch or cannot draw, in the pixels that the
    analysis sees.
    """
    reading = await services.intake.read(await _source(request))
    jpeg = await services.codec.encode_jpeg(reading.image.pixels, quality=_JPEG_QUALITY)
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, no-store"})


async def _source(request: Request) -> Source:
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return body
    try:
        return RemotePicture(_Address.model_validate_json(body).url)
    except ValidationError as error:
        raise invalid(error) from error

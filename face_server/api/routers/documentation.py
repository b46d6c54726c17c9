"""The documentation in a browser. Everything it loads is served by us."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}

_SWAGGER = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>face_server: HTTP API</title>
<link rel="icon" type="image/png" href="/static/swagger/favicon-32x32.png">
<link rel="stylesheet" href="/static/swagger/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/static/swagger/swagger-ui-bundle.js"></script>
<script src="/static/swagger/start.js"></script>
</body>
</html>
"""

_REDOC = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>face_server: HTTP API reference</title>
<link rel="icon" type="image/png" href="/static/swagger/favicon-32x32.png">
<link rel="stylesheet" href="/static/redoc/page.css">
</head>
<body>
<div id="redoc"></div>
<script src="/static/redoc/redoc.standalone.js"></script>
<script src="/static/redoc/start.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def docs() -> Response:
    """The interactive documentation."""
    # Swagger UI sets style attributes while it renders.
    return _page(_SWAGGER, {"style-src": "'self' 'unsafe-inline'"})


@router.get("/redoc")
async def redoc() -> Response:
    """The reference documentation."""
    # Redoc writes style elements and searches in a worker that it makes from a blob.
    return _page(_REDOC, {"style-src": "'self' 'unsafe-inline'", "worker-src": "blob:"})


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(request.app.state.openapi, media_type="application/json")


def _page(html: str, more: dict[str, str]) -> Response:
    policy = "; ".join(f"{name} {sources}" for name, sources in {**_POLICY, **more}.items())
    return HTMLResponse(html, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})

"""API keys: who may call which route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from face_server.api.deps import ServicesDep
from face_server.api.services import Services
from face_server.domain.access import Role
from face_server.errors import AccessDenied

_key_header = APIKeyHeader(
    name="x-api-key", scheme_name="ApiKey", auto_error=False, description="An API key of `face-server keys create`. Not needed on loopback."
)
_bearer = HTTPBearer(scheme_name="Bearer", auto_error=False, description="The same key as a bearer token.")


def requires(role: Role) -> Callable[..., Awaitable[None]]:
    """A dependency that lets callers with at least ``role`` pass, and everybody where keys are off.

    Raises AccessDenied: not authenticated without a known key, authenticated when the role is too low.
    """

    async def check(
        services: ServicesDep,
        header: Annotated[str | None, Security(_key_header)] = None,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    ) -> None:
        await authorize(services, role, header or (bearer.credentials if bearer else None))

    return check


async def authorize(services: Services, role: Role, secret: str | None) -> None:
    """Let a caller with this API key pass, or everybody where keys are off; see ``requires``."""
    if services.keys is None:
        return
    if not secret:
        raise AccessDenied("an API key is needed, in x-api-key or as Authorization: Bearer", authenticated=False)
    key = await services.keys.authenticate(secret)
    if key is None:
        raise AccessDenied("the API key is unknown or revoked", authenticated=False)
    if not key.role.allows(role):
        raise AccessDenied(f"this route needs the role {role.value!r}, the API key has {key.role.value!r}", authenticated=True)


def secret_in(headers: Headers) -> str | None:
    """The API key that a request carries, if any."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token if kind.lower() == "bearer" else None)


READ: Any = Depends(requires(Role.READ))
"""For routes that only read: detect, extract, verify, identify, list."""

OPERATE: Any = Depends(requires(Role.OPERATE))
"""For routes that change templates and identities."""

ADMIN: Any = Depends(requires(Role.ADMIN))
"""For routes that create and drop collections, export and import."""

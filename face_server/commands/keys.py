"""`face-server keys`: who may call the HTTP API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from face_server.app_state import open_keys
from face_server.clock import SystemClock
from face_server.commands.options import Data, Json, load_settings
from face_server.commands.terminal import err, out, print_json, print_table
from face_server.domain.access import ApiKey, KeyRing, Role

Result = TypeVar("Result")

keys = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

_DAY_S = 24 * 60 * 60


@keys.command()
def create(
    role: Annotated[Role, typer.Option("--role", help="What the key allows; each role includes the ones before it.", show_default=False)],
    label: Annotated[str, typer.Option("--label", help="What the key is for.")] = "",
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", min=1, max=36_500, help="Days until it expires; never if left out.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Create a key. Its secret is printed this once; only a digest is stored."""
    expires_at = None if expires_days is None else time.time() + expires_days * _DAY_S
    key, secret = _with_keys(data, lambda ring: ring.create(role, label, expires_at=expires_at))
    if as_json:
        print_json({**_described(key), "secret": secret})
        return
    out.print(secret)
    err.print(f"key {key.id} with role {key.role}; keep the line above, it cannot be shown again")


@keys.command("list")
def list_keys(data: Data = None, as_json: Json = False) -> None:
    """List the keys, never their secrets."""
    known = _with_keys(data, lambda ring: ring.list())
    if as_json:
        print_json([_described(key) for key in known])
        return
    header = ("id", "role", "label", "created", "expires", "last used")
    print_table(
        header, [(key.id, key.role, key.label, _day(key.created_at), _day(key.expires_at), _day(key.last_used_at)) for key in known]
    )


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, from `keys list`.", show_default=False)],
    data: Data = None,
) -> None:
    """Revoke a key; running servers refuse it within a second."""
    _with_keys(data, lambda ring: ring.revoke(key_id))
    err.print(f"key {key_id} is revoked")


def _with_keys(data: Path | None, work: Callable[[KeyRing], Awaitable[Result]]) -> Result:
    settings = load_settings(data=data)

    async def run() -> Result:
        async with open_keys(settings, SystemClock()) as ring:
            return await work(ring)

    return asyncio.run(run())


def _described(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "role": key.role,
        "label": key.label,
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "last_used_at": _time(key.last_used_at),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(round(seconds), UTC).isoformat()


def _day(seconds: float | None) -> str:
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")

"""Who may call the HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What an API key allows; each role includes the ones before it.

    READ asks (detect, extract, verify, identify, list), OPERATE changes templates and identities,
    ADMIN manages collections and keys.
    """

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def allows(self, wanted: Role) -> bool:
        """Whether a key of this role may do what needs ``wanted``."""
        order = list(Role)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: never its secret. Times are Unix seconds; ``expires_at`` None is never."""

    id: str
    label: str
    role: Role
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None


class KeyRing(Protocol):
    """API keys at rest. Secrets are kept as digests only."""

    async def create(self, role: Role, label: str, *, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once."""
        ...

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        ...

    async def revoke(self, key_id: str) -> None:
        """Forget a key. Raises NotFound."""
        ...

    async def authenticate(self, secret: str) -> ApiKey | None:
        """The key that ``secret`` belongs to, or None if it is unknown, revoked or expired."""
        ...

    async def close(self) -> None:
        """Release the store. Idempotent."""
        ...

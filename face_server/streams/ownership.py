"""Who runs which stream where there is one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from face_server.domain.replicas import Claim, Hold, Meeting, ReplicaNote


class SoleOwner:
    """``Ownership`` of a process that is alone: everything is its own, and nothing needs to be asked."""

    replica = "only"
    shared = False
    lease_s = float("inf")

    async def claim(self, stream_id: str, *, patient: bool = False) -> Claim:
        """Always."""
        del patient
        return Claim(stream_id, 1)

    async def meet(self, note: ReplicaNote, claims: Sequence[Claim]) -> Meeting:
        """Nobody is there."""
        del note, claims
        return Meeting()

    async def holders(self, stream_ids: Sequence[str]) -> Mapping[str, Hold]:
        """It is this process."""
        return dict.fromkeys(stream_ids, Hold(self.replica))

    async def release(self, claim: Claim) -> None:
        """Nobody else wants it."""

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """Never."""
        del stream_id, token
        return None

    async def announce(self) -> None:
        """Nobody listens."""

    async def ask_restart(self, stream_id: str) -> None:
        """Nobody listens."""

    async def close(self) -> None:
        """Nothing is held."""

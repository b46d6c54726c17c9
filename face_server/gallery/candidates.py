"""What an index found, as callers get it."""

from __future__ import annotations

from collections.abc import Iterable

from face_server.domain.identity import Candidate, Identity
from face_server.gallery.index import Nearest


def candidate(found: Nearest, template_id: str, identity: Identity) -> Candidate:
    """What an index found, with names and ids."""
    return Candidate(identity, found.similarity, template_id, found.template_similarity)


def best_first(candidates: Iterable[Candidate], limit: int) -> list[Candidate]:
    """The ``limit`` best; ties by identity id."""
    return sorted(candidates, key=lambda one: (-one.similarity, one.identity.id))[:limit]

"""Collections, identities and templates as JSON."""

from __future__ import annotations

from face_server.api.rendering import Body, timestamp
from face_server.domain.identity import Collection, Identity, Template
from face_server.errors import InvalidInput
from face_server.pipeline.recognition import Recognition


def collection_body(collection: Collection, recognition: Recognition) -> Body:
    """A collection as ``schemas.gallery.CollectionBody``."""
    return {
        "name": collection.name,
        "model": str(collection.model),
        "threshold": collection.threshold,
        "effective_threshold": _effective_threshold(collection, recognition),
        "margin": collection.margin,
        "target_fpir": collection.target_fpir,
        "keep_crops": collection.keep_crops,
        "created_at": timestamp(collection.created_at),
        "identity_count": collection.identities,
        "template_count": collection.templates,
    }


def _effective_threshold(collection: Collection, recognition: Recognition) -> float | None:
    try:
        return recognition.identification_threshold(collection)
    except InvalidInput:
        return None


def identity_body(identity: Identity) -> Body:
    """An identity as ``schemas.gallery.IdentityBody``."""
    return {
        "id": identity.id,
        "name": identity.name,
        "metadata": dict(identity.metadata),
        "created_at": timestamp(identity.created_at),
        "template_count": identity.templates,
    }


def template_body(template: Template) -> Body:
    """A template as ``schemas.gallery.TemplateBody``."""
    return {
        "id": template.id,
        "identity_id": template.identity_id,
        "quality": round(template.quality, 4),
        "created_at": timestamp(template.created_at),
        "source": template.source,
        "has_crop": template.has_crop,
    }

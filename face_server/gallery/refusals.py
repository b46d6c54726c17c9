"""What a gallery refuses, in the same words whatever it keeps templates in."""

from __future__ import annotations

from face_server.errors import Conflict, InputTooLarge, InvalidInput, NotFound, Unavailable


def collection_missing(name: str) -> NotFound:
    """No collection has this name."""
    return NotFound(f"no collection is named {name[:80]!r}", field="collection")


def collection_taken(name: str) -> Conflict:
    """The name of a new collection is not free."""
    return Conflict(f"a collection named {name!r} exists already", field="collection")


def too_many_collections(limit: int) -> InputTooLarge:
    """The gallery is full of collections."""
    return InputTooLarge(f"a gallery may have {limit} collections", field="collection")


def identity_missing(identity_id: str, collection: str) -> NotFound:
    """No identity has this id."""
    return NotFound(f"no identity {identity_id[:80]!r} in collection {collection!r}", field="identity_id")


def template_missing(template_id: str, collection: str) -> NotFound:
    """No template has this id."""
    return NotFound(f"no template {template_id[:80]!r} in collection {collection!r}", field="template_id")


def template_taken(template_id: str, collection: str) -> Conflict:
    """The id of a new template is not free."""
    return Conflict(f"a template {template_id!r} exists already in collection {collection!r}", field="template_id")


def no_template(identity_id: str) -> NotFound:
    """An identity without templates cannot be compared with."""
    return NotFound(f"identity {identity_id!r} has no template", field="identity_id")


def too_many_templates(limit: int, count: int) -> InputTooLarge:
    """An identity would have more templates than it may."""
    return InputTooLarge(f"an identity may have {limit} templates, it would have {count}", field="identity_id")


def merged_with_itself() -> InvalidInput:
    """Source and target of a merge are the same."""
    return InvalidInput("an identity cannot be merged with itself", field="identity_id")


def closed() -> Unavailable:
    """The gallery was closed."""
    return Unavailable("the gallery is closed", code="closed")

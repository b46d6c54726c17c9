"""What a gallery accepts, checked before anything is stored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from face_server.domain.embedding import Embeddings, ModelId
from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, TemplateRecord
from face_server.errors import InputTooLarge, InvalidInput

MAX_ID_LENGTH = 64
MAX_DIMENSION = 4_096
_ID = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_ID_LENGTH}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class GalleryLimits:
    """Bounds of what is stored and asked at once; characters unless the name says otherwise."""

    collections: int = 1_000
    templates_per_identity: int = 1_000
    changes: int = 10_000
    probes: int = 1_000
    candidates: int = 1_000
    page: int = 10_000
    name: int = 200
    metadata_entries: int = 32
    metadata_key: int = 64
    metadata_value: int = 1_024
    source: int = 1_024
    crop_bytes: int = 256 * 1024


def check_id(value: str, field: str) -> None:
    """Refuse an id or collection name that is not 1 to 64 of letters, digits and ``._~-``."""
    if _ID.fullmatch(value) is None:
        raise InvalidInput(f"{field} must be 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ ~ -, got {value[:80]!r}", field=field)


def check_text(value: str, field: str, limit: int, *, empty: bool = True) -> None:
    """Refuse text that is longer than ``limit`` or holds control characters; ``empty`` allows none."""
    if len(value) > limit:
        raise InputTooLarge(f"{field} may have {limit} characters, got {len(value)}", field=field)
    if _CONTROL.search(value) is not None:
        raise InvalidInput(f"{field} must not hold control characters or half surrogates", field=field)
    if not empty and not value.strip():
        raise InvalidInput(f"{field} must not be empty", field=field)


def check_count(value: int, field: str, limit: int) -> None:
    """Refuse a number outside 1..``limit``."""
    if not 1 <= value <= limit:
        raise InvalidInput(f"{field} must be 1 to {limit}, got {value}", field=field)


def check_collection(collection: Collection) -> None:
    """Refuse a collection whose name or settings cannot work."""
    check_id(collection.name, "collection")
    model = collection.model
    if not 1 <= model.dimension <= MAX_DIMENSION or ModelId.parse(str(model)) != model:
        raise InvalidInput(f"{model} is no model id with 1 to {MAX_DIMENSION} dimensions", field="model")
    if collection.threshold is not None and not -1.0 <= collection.threshold <= 1.0:
        raise InvalidInput(f"threshold must be a similarity from -1 to 1, got {collection.threshold}", field="threshold")
    if not 0.0 <= collection.margin <= 2.0:
        raise InvalidInput(f"margin must be from 0 to 2, got {collection.margin}", field="margin")
    if not 0.0 < collection.target_fpir < 1.0:
        raise InvalidInput(f"target_fpir must be above 0 and below 1, got {collection.target_fpir}", field="target_fpir")


def check_changes(changes: Sequence[Change], model: ModelId, limits: GalleryLimits) -> None:
    """Refuse a sequence of changes that is too long or holds something that cannot be stored.

    Ids that only refer to something stored are not checked here: they are found or not.
    """
    if len(changes) > limits.changes:
        raise InputTooLarge(f"one call may make {limits.changes} changes, got {len(changes)}", field="changes")
    for change in changes:
        if isinstance(change, PutIdentity):
            _check_identity(change.identity, limits)
        elif isinstance(change, AddTemplate):
            _check_record(change.record, model, limits)


def check_probes(probes: Embeddings, collection: str, model: ModelId, limits: GalleryLimits) -> None:
    """Refuse probes of another model, too many, or with NaN or infinity."""
    model.require(probes.model, f"the probe for collection {collection!r}")
    if len(probes) > limits.probes:
        raise InputTooLarge(f"one search may have {limits.probes} probes, got {len(probes)}", field="probes")
    if not np.isfinite(probes.vectors).all():
        raise InvalidInput("a probe holds NaN or infinity", code="invalid_embedding", field="probes")


def _check_identity(identity: Identity, limits: GalleryLimits) -> None:
    check_id(identity.id, "identity id")
    check_text(identity.name, "name", limits.name, empty=False)
    _check_metadata(identity.metadata, limits)
    if not math.isfinite(identity.created_at):
        raise InvalidInput("created_at must be a number", field="created_at")


def _check_metadata(metadata: Mapping[str, str], limits: GalleryLimits) -> None:
    if len(metadata) > limits.metadata_entries:
        raise InputTooLarge(f"metadata may have {limits.metadata_entries} entries, got {len(metadata)}", field="metadata")
    for key, value in metadata.items():
        check_text(key, "a metadata key", limits.metadata_key, empty=False)
        check_text(value, f"metadata {key!r}", limits.metadata_value)


def _check_record(record: TemplateRecord, model: ModelId, limits: GalleryLimits) -> None:
    template, embedding = record.template, record.embedding
    check_id(template.id, "template id")
    model.require(embedding.model, "the template")
    length = float(np.linalg.norm(embedding.vector))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE or not math.isfinite(embedding.norm):
        raise InvalidInput("the embedding of a template must be a finite vector of length 1", code="invalid_embedding", field="embedding")
    if not (math.isfinite(template.quality) and math.isfinite(template.created_at)):
        raise InvalidInput("quality and created_at of a template must be numbers", field="quality")
    check_text(template.source, "source", limits.source)
    if template.image_digest and _DIGEST.fullmatch(template.image_digest) is None:
        raise InvalidInput("image_digest must be the 64 hex digits of a sha256, or empty", field="image_digest")
    if record.crop is not None and not 0 < len(record.crop) <= limits.crop_bytes:
        raise InputTooLarge(f"a crop may have 1 to {limits.crop_bytes} bytes, got {len(record.crop)}", field="crop")

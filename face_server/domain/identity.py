"""Who can be recognised: collections of identities, identities of templates, and changes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from face_server.domain.embedding import Embedding, ModelId


@dataclass(frozen=True, slots=True)
class Collection:
    """Templates that are searched together, all of one model.

    ``threshold`` pins the inclusive 1:N similarity threshold; None derives it from
    ``target_fpir`` (the share of strangers that may be given a name) and the number of identities.
    ``margin`` is the lead that the best person needs over the second. ``keep_crops`` stores the
    aligned crop beside each template. ``created_at`` is Unix seconds. ``identities`` and
    ``templates`` count what is stored now.
    """

    name: str
    model: ModelId
    threshold: float | None = None
    margin: float = 0.0
    target_fpir: float = 0.01
    keep_crops: bool = True
    created_at: float = 0.0
    identities: int = 0
    templates: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who: an id that never changes, a display name, free metadata. Names need not be unique."""

    id: str
    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    templates: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """What is listed of an enrolled embedding.

    ``quality`` is ``Quality.score``; ``source`` says where it came from (a file name);
    ``image_digest`` is the sha256 hex of the uploaded bytes, so that a repeated upload is noticed.
    """

    id: str
    identity_id: str
    quality: float
    created_at: float
    source: str = ""
    image_digest: str = ""
    has_crop: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TemplateRecord:
    """A template with its embedding and, where kept, its aligned crop as JPEG bytes."""

    template: Template
    embedding: Embedding
    crop: bytes | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person a probe may be.

    ``similarity`` is the person's score that decisions use; ``template_id`` is their template
    nearest to the probe and ``template_similarity`` its cosine.
    """

    identity: Identity
    similarity: float
    template_id: str
    template_similarity: float


# Changes to a collection. A sequence of them is applied whole or not at all.


@dataclass(frozen=True, slots=True)
class PutIdentity:
    """Create the identity, or replace name and metadata of the one with this id."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class RemoveIdentity:
    """Erase an identity, its templates and their crops."""

    identity_id: str


@dataclass(frozen=True, slots=True, eq=False)
class AddTemplate:
    """Add a template to an identity that exists or is put earlier in the same sequence."""

    record: TemplateRecord


@dataclass(frozen=True, slots=True)
class RemoveTemplate:
    """Erase one template and its crop."""

    template_id: str


@dataclass(frozen=True, slots=True)
class MoveTemplate:
    """Give a template to another identity of the collection."""

    template_id: str
    identity_id: str


@dataclass(frozen=True, slots=True)
class MergeIdentities:
    """Give all templates of ``source_id`` to ``target_id`` and erase the source identity."""

    source_id: str
    target_id: str


Change = PutIdentity | RemoveIdentity | AddTemplate | RemoveTemplate | MoveTemplate | MergeIdentities

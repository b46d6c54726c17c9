"""A collection as one file: a zip archive that any tool opens, version 1.

    identities/000000.jsonl   a line each: id, name, metadata, created_at; by id over all members
    templates/000000.jsonl    a line each: id, identity_id, quality, created_at, source,
                              image_digest, norm, crop_bytes (0: no crop kept); by id over all members
    vectors/000000.f32        the vectors of the templates of the same number, little-endian float32
    crops/000000.bin          their crops (JPEG), one after the other, ``crop_bytes`` each
    manifest.json             format, version, the collection's settings and model, counts, and for
                              each other member its size and sha256

Members are stored uncompressed, so nothing grows when it is read, and never become files, so
their names lead nowhere. The manifest comes last: a file that was half written has none. The same
contents always make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from face_server.domain.embedding import ModelId
from face_server.domain.identity import Collection, Template, TemplateRecord
from face_server.errors import InputTooLarge, InvalidInput

FORMAT = "face_server collection"
VERSION = 1

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 64 * 1024 * 1024
MAX_LINES = 10_000


class Line(BaseModel):
    """Something in the file: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class IdentityLine(Line):
    """An identity."""

    id: str
    name: str
    metadata: dict[str, str]
    created_at: float


class TemplateLine(Line):
    """A template; its vector and crop lie in members of the same number."""

    id: str
    identity_id: str
    quality: float
    created_at: float
    source: str
    image_digest: str
    norm: float
    crop_bytes: Annotated[int, Field(ge=0, le=MAX_MEMBER_BYTES)]


class Settings(Line):
    """The collection."""

    name: str
    model: str
    threshold: float | None
    margin: float
    target_fpir: float
    keep_crops: bool
    created_at: float


class Member(Line):
    """A member of the archive."""

    name: str
    bytes: int
    sha256: str


class Manifest(Line):
    """What a file says of itself."""

    format: str
    version: int
    collection: Settings
    identities: int
    templates: int
    members: list[Member]

    @property
    def model(self) -> ModelId:
        """The model of the vectors."""
        return ModelId.parse(self.collection.model)

    def collection_named(self, name: str) -> Collection:
        """The collection that was exported, under ``name``."""
        kept = self.collection
        return Collection(name, self.model, kept.threshold, kept.margin, kept.target_fpir, kept.keep_crops, kept.created_at)


AnyLine = TypeVar("AnyLine", bound=Line)


class _Kind(BaseModel):
    format: str
    version: int


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``. Raises InvalidInput, naming the version if it is another one."""
    try:
        kind = _Kind.model_validate_json(data)
        if (kind.format, kind.version) != (FORMAT, VERSION):
            found, wanted = f"{kind.format[:80]!r} version {kind.version}", f"{FORMAT!r} version {VERSION}"
            raise InvalidInput(f"the file is {found}, this face_server reads {wanted}", code="invalid_transfer_file", field="file")
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise broken(f"its manifest is not understood ({error.errors()[0]['msg']})") from error


def parse_lines(kind: type[AnyLine], data: bytes, name: str) -> list[AnyLine]:
    """The lines of a member. Raises InvalidInput, InputTooLarge."""
    if data.count(b"\n") > MAX_LINES:
        raise InputTooLarge(f"a member may have {MAX_LINES} lines, {name} has more", field="file")
    try:
        lines = [kind.model_validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise broken(f"a line of {name} is not understood ({error.errors()[0]['msg']})") from error
    if not lines:
        raise broken(f"{name} is empty")
    return lines


def joined(lines: Iterable[Line]) -> bytes:
    """The member that holds ``lines``."""
    return b"".join(line.model_dump_json().encode() + b"\n" for line in lines)


def template_line(record: TemplateRecord, crop_bytes: int) -> TemplateLine:
    """A template as a line."""
    one = record.template
    return TemplateLine(
        id=one.id,
        identity_id=one.identity_id,
        quality=one.quality,
        created_at=one.created_at,
        source=one.source,
        image_digest=one.image_digest,
        norm=record.embedding.norm,
        crop_bytes=crop_bytes,
    )


def template_of(line: TemplateLine) -> Template:
    """The inverse of ``template_line``."""
    return Template(line.id, line.identity_id, line.quality, line.created_at, line.source, line.image_digest, line.crop_bytes > 0)


def broken(why: str) -> InvalidInput:
    """The error for a file that is not what an export writes."""
    return InvalidInput(f"the file cannot be imported: {why}", code="invalid_transfer_file", field="file")

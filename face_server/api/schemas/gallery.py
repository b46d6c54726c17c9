"""Collections, identities and templates: what is asked and answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from face_server.api.bodies import PicturesModel, RequestModel
from face_server.api.deps import COLLECTION_PATTERN, ID_PATTERN
from face_server.api.examples import FACE_BASE64
from face_server.api.pictures import EmbeddingValues, Picture
from face_server.api.problems import Problem
from face_server.api.schemas.faces import FaceBody
from face_server.api.schemas.recognition import ModelText

# No control characters: names are shown on terminals and in logs.
PersonName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Display name, 1 to 200 characters without control characters; need not be unique.",
        examples=["Ada Lovelace"],
    ),
]
_MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_MetadataValue = Annotated[str, StringConstraints(max_length=1024)]
Metadata = Annotated[
    dict[_MetadataKey, _MetadataValue],
    Field(
        max_length=32, description="Up to 32 texts of your own; keys up to 64, values up to 1024 characters.", examples=[{"badge": "1815"}]
    ),
]
PinnedThreshold = Annotated[
    float | None,
    Field(
        ge=-1,
        le=1,
        description="Similarity that a match needs, inclusive. If null it follows from `target_fpir` and the number of identities.",
    ),
]
Margin = Annotated[float, Field(ge=0, le=2, description="Lead that the best person needs over the second; refuses look-alikes.")]
TargetFpir = Annotated[float, Field(ge=1e-6, le=0.5, description="Share of strangers that may be given a name.")]


class CollectionSettings(RequestModel):
    """How a collection decides."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"target_fpir": 0.01, "margin": 0.0}]})

    threshold: PinnedThreshold = None
    margin: Margin = 0.0
    target_fpir: TargetFpir = 0.01
    keep_crops: bool = Field(True, description="Store the aligned crop beside each template.")


class CollectionRequest(CollectionSettings):
    """A new collection."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "visitors", "target_fpir": 0.01}]})

    name: str = Field(pattern=COLLECTION_PATTERN, description="1 to 64 letters, digits and `._-`.", examples=["visitors"])


class CollectionPatch(RequestModel):
    """What to change; members left out stay. `"threshold": null` unpins the threshold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"margin": 0.02}]})

    threshold: PinnedThreshold = None
    margin: Margin = 0.0
    target_fpir: TargetFpir = 0.01
    keep_crops: bool = True


class CollectionBody(BaseModel):
    """Templates that are searched together, all of one model."""

    name: str
    model: str = Field(description="The model of every embedding in it.")
    threshold: float | None = Field(description="The pinned threshold; null where it is derived.")
    effective_threshold: float | None = Field(
        description="The threshold in force now: pinned or derived. Null where the model was not calibrated and none is pinned."
    )
    margin: float
    target_fpir: float
    keep_crops: bool
    created_at: datetime
    identity_count: int = Field(description="How many people are enrolled.")
    template_count: int = Field(description="How many templates they have together.")


class CollectionPage(BaseModel):
    """Some collections, by name."""

    collections: list[CollectionBody]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last.")


class IdentitySettings(RequestModel):
    """An identity's name and metadata, to be stored as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada Lovelace", "metadata": {"badge": "1815"}}]})

    name: PersonName
    metadata: Metadata = Field(default_factory=dict)


class IdentityPatch(RequestModel):
    """What to change; members left out stay. Metadata is replaced as a whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada King"}]})

    name: PersonName | None = None
    metadata: Metadata | None = None


class TemplatesRequest(PicturesModel):
    """Pictures or embeddings to remember somebody by; each picture shows exactly one face."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [FACE_BASE64], "override": True}]})

    images: list[Picture] = Field(default_factory=list, description="Pictures of this person.")
    embeddings: list[EmbeddingValues] = Field(default_factory=list, max_length=1000, description="Embeddings of this person.")
    model: ModelText = None
    override: bool = Field(
        False, description="Take the largest face in spite of every reason to refuse the picture, except that there is no face."
    )
    source: str = Field("", max_length=200, description="Where the pictures come from, kept with the templates.", examples=["badge photo"])


class IdentityRequest(TemplatesRequest):
    """A new identity, with pictures at once or without."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Ada Lovelace", "metadata": {"badge": "1815"}, "images": [FACE_BASE64], "override": True}]}
    )
    raw: ClassVar[str] = "images"

    id: str | None = Field(None, pattern=ID_PATTERN, description="An id of your own, 1 to 64 letters, digits and `_-`; made up if null.")
    name: PersonName
    metadata: Metadata = Field(default_factory=dict)


class MergeRequest(RequestModel):
    """Who takes over the templates."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"into": "4f1c2a9be07d3358"}]})

    into: str = Field(pattern=ID_PATTERN, description="Id of the identity that stays.")


class MoveRequest(RequestModel):
    """Who gets the template."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"identity_id": "4f1c2a9be07d3358"}]})

    identity_id: str = Field(pattern=ID_PATTERN, description="Id of the identity that gets it.")


class IdentityBody(BaseModel):
    """Who."""

    id: str
    name: str
    metadata: dict[str, str]
    created_at: datetime
    template_count: int = Field(description="How many templates there are.")


class TemplateBody(BaseModel):
    """One enrolled embedding."""

    id: str
    identity_id: str
    quality: float = Field(description="Quality score of the face, 0..1; 0 where it came as an embedding.")
    created_at: datetime
    source: str
    has_crop: bool = Field(description="Whether `crop.jpg` can be fetched.")


class TemplateDetail(TemplateBody):
    """One enrolled embedding with its values."""

    model: str
    embedding: list[float]


class IdentityDetail(IdentityBody):
    """Who, with the templates, oldest first."""

    templates: list[TemplateBody]


class IdentityPage(BaseModel):
    """Some identities, by id."""

    identities: list[IdentityBody]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last.")


class EnrolledBody(BaseModel):
    """What became of one picture or embedding."""

    template: TemplateBody | None = Field(None, description="What was stored.")
    face: FaceBody | None = Field(None, description="The face that was used.")
    overridden: list[str] = Field(default_factory=list, description="The reasons to refuse it that `override` set aside.")
    problem: Problem | None = Field(None, description="Why nothing was stored; the others are not affected.")


class EnrollAnswer(BaseModel):
    """The identity after enrolment, and one entry a picture and one an embedding, in the order of the request."""

    identity: IdentityBody
    images: list[EnrolledBody]
    embeddings: list[EnrolledBody]


class ImportAnswer(BaseModel):
    """What an import did."""

    collection: str
    created: bool = Field(description="Whether the collection is new.")
    identities_added: int
    identities_skipped: int
    identities_replaced: int
    templates_added: int
    templates_skipped: int
    templates_replaced: int

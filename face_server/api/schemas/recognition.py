"""Verification and identification: what is asked and answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from face_server.api.bodies import PicturesModel, RequestModel
from face_server.api.deps import COLLECTION_PATTERN, ID_PATTERN
from face_server.api.examples import FACE_BASE64
from face_server.api.pictures import EmbeddingValues, Picture
from face_server.api.problems import Problem
from face_server.api.schemas.faces import BoxBody, FaceBody, MaxFaces, MaxSize, MinFaceSize, MinScore

Threshold = Annotated[float | None, Field(ge=-1, le=1, description="Similarity (cosine) that a match needs, inclusive.")]
ModelText = Annotated[
    str | None,
    Field(
        max_length=200,
        description="The model that made the embeddings sent, as answers name it. Taken to be this server's if null.",
        examples=["sface@fb143eea0783/p1/128d"],
    ),
]
VerdictText = Literal["match", "no_candidate", "below_threshold", "within_margin"]


class VerifyRequest(RequestModel):
    """Are these the same person? A probe, and a reference to compare it with.

    The probe is a picture or an embedding; the reference a picture, an embedding, or an enrolled
    identity (`reference_identity` of `collection`).
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"probe_image": FACE_BASE64, "reference_image": FACE_BASE64}]}
    )
    files: ClassVar[Mapping[str, str]] = {"probe_image": "probe_image", "reference_image": "reference_image", "file": "probe_image"}
    raw: ClassVar[str] = "probe_image"

    probe_image: Picture | None = None
    probe_embedding: EmbeddingValues | None = None
    reference_image: Picture | None = None
    reference_embedding: EmbeddingValues | None = None
    reference_identity: str | None = Field(None, pattern=ID_PATTERN, description="Id of an enrolled identity.")
    collection: str | None = Field(
        None, pattern=COLLECTION_PATTERN, description="Where `reference_identity` is enrolled. The server's default collection if null."
    )
    model: ModelText = None
    threshold: Threshold = Field(None, description="Similarity that counts as the same person. If null: 0.1 % of different people pass.")
    largest_face: bool = Field(False, description="Take the largest face of a picture that shows several, instead of refusing it.")

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if sum(value is not None for value in (self.probe_image, self.probe_embedding)) != 1:
            raise ValueError("send exactly one of probe_image and probe_embedding")
        if sum(value is not None for value in (self.reference_image, self.reference_embedding, self.reference_identity)) != 1:
            raise ValueError("send exactly one of reference_image, reference_embedding and reference_identity")
        return self


class IdentifyRequest(PicturesModel):
    """Who is this? Pictures or embeddings to look up in a collection."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [FACE_BASE64], "limit": 3}]})

    images: list[Picture] = Field(default_factory=list, description="Pictures; every face in them is identified.")
    embeddings: list[EmbeddingValues] = Field(default_factory=list, max_length=1000, description="Embeddings to identify.")
    model: ModelText = None
    faces: Literal["all", "largest"] = Field("all", description="Whether to identify all faces of a picture or only the largest.")
    limit: int = Field(5, ge=1, le=100, description="Most candidates a face.")
    threshold: Threshold = Field(None, description="Similarity that a match needs. The collection's if null.")
    margin: float | None = Field(None, ge=0, le=2, description="Lead that the best person needs over the second. The collection's if null.")
    min_score: MinScore = None
    max_size: MaxSize = None
    max_faces: MaxFaces = None
    min_face_size: MinFaceSize = 0
    quality: bool = Field(False, description="Also measure each face's quality.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.images and not self.embeddings:
            raise ValueError("send images, embeddings or both")
        return self


class PersonBody(BaseModel):
    """An enrolled identity, as candidates show it."""

    id: str
    name: str
    metadata: dict[str, str]


class CandidateBody(BaseModel):
    """A person that the face may be."""

    identity: PersonBody
    similarity: float = Field(description="How near the face is to the person, −1..1: what the threshold is compared with.")
    template_id: str = Field(description="The person's template nearest to the face.")
    template_similarity: float = Field(description="Cosine between the face and that template.")


class IdentificationBody(BaseModel):
    """Who a face is, or why nobody."""

    verdict: VerdictText
    match: CandidateBody | None = Field(description="The person; null for unknown.")
    candidates: list[CandidateBody] = Field(description="The nearest people, best first.")


class IdentifiedFace(FaceBody, IdentificationBody):
    """A face and who it is."""


class IdentifiedPicture(BaseModel):
    """The faces of one picture, or the problem that this picture met."""

    width: int | None = None
    height: int | None = None
    faces: list[IdentifiedFace]
    read_ms: float | None = None
    analyze_ms: float | None = None
    problem: Problem | None = None


class IdentifyAnswer(BaseModel):
    """One entry a picture and one an embedding, in the order of the request."""

    collection: str
    model: str
    threshold: float = Field(description="The similarity that a match needed.")
    margin: float = Field(description="The lead that a match needed over the second person.")
    images: list[IdentifiedPicture]
    embeddings: list[IdentificationBody]


class ComparedFace(BaseModel):
    """The face of a picture that was compared."""

    box: BoxBody
    score: float


class VerifyAnswer(BaseModel):
    """Whether both are the same person: `similarity` >= `threshold`."""

    same: bool
    similarity: float
    threshold: float
    model: str
    probe_face: ComparedFace | None = Field(description="Null where the probe was an embedding.")
    reference_face: ComparedFace | None = Field(description="Null where the reference was no picture.")
    candidate: CandidateBody | None = Field(description="The enrolled person, where the reference was an identity.")

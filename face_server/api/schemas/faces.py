"""Faces in answers, and what a request may ask of an analysis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from face_server.api.bodies import PicturesModel
from face_server.api.examples import FACE_BASE64
from face_server.api.pictures import Picture
from face_server.api.problems import Problem

EmbeddingFormat = Literal["floats", "base64"]

MinScore = Annotated[
    float | None, Field(ge=0, le=1, description="Faces with a lower detection score are left out. The server's default if null.")
]
MaxSize = Annotated[
    int | None,
    Field(
        ge=32, le=8192, description="Pictures are scaled down to this long side, in pixels, before detection. The server's default if null."
    ),
]
MaxFaces = Annotated[
    int | None, Field(ge=1, le=10_000, description="Most faces a picture; the largest are kept. Never more than the server's limit.")
]
MinFaceSize = Annotated[int, Field(ge=0, le=100_000, description="Faces narrower than this, in pixels of the picture, are left out.")]


class AnalysisFields(PicturesModel):
    """What to look for."""

    images: list[Picture] = Field(description="The pictures.", min_length=1)
    min_score: MinScore = None
    max_size: MaxSize = None
    max_faces: MaxFaces = None
    min_face_size: MinFaceSize = 0


class DetectRequest(AnalysisFields):
    """Find faces."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [FACE_BASE64], "min_score": 0.6}]})

    quality: bool = Field(False, description="Also measure each face's quality.")
    crops: bool = Field(False, description="Also return each face's aligned crop.")


class ExtractRequest(AnalysisFields):
    """Find faces and compute their embeddings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [FACE_BASE64], "embedding_format": "floats"}]})

    quality: bool = Field(True, description="Also measure each face's quality.")
    crops: bool = Field(False, description="Also return each face's aligned crop.")
    embed_only: bool = Field(False, description="The pictures are aligned crops (112×112) already: embed them without detection.")
    embedding_format: EmbeddingFormat = Field(
        "floats", description="`floats`: a JSON array. `base64`: the float32 little-endian bytes, a third of the size."
    )


class BoxBody(BaseModel):
    """Corners in pixels of the picture; x to the right, y down. May reach beyond the picture."""

    x1: float
    y1: float
    x2: float
    y2: float


class PoseBody(BaseModel):
    """Head rotation in degrees, roughly (±10°); 0 is frontal and upright."""

    yaw: float = Field(description="Positive when the face turns to the image's right.")
    pitch: float = Field(description="Positive when it looks down.")
    roll: float = Field(description="Positive when it tilts clockwise.")


class QualityBody(BaseModel):
    """How usable the face is for recognition."""

    size_px: float = Field(description="Shorter side of the box in pixels of the picture.")
    sharpness: float = Field(description="0..1.")
    brightness: float = Field(description="0..1.")
    pose: PoseBody
    score: float = Field(description="0..1: size, sharpness, frontality and detection score together.")
    reasons: list[str] = Field(description="Why enrolment would refuse the face; empty when it is fit.", examples=[["small_face"]])


class FaceBody(BaseModel):
    """One face. Members that were not asked for are left out."""

    box: BoxBody
    score: float = Field(description="Detection score, 0..1.")
    landmarks: list[list[float]] = Field(
        description="Five points (x, y): image-left eye, image-right eye, nose, image-left and image-right mouth corner."
    )
    quality: QualityBody | None = None
    embedding: list[float] | str | None = Field(None, description="Unit vector; as base64 where `embedding_format` says so.")
    crop: str | None = Field(None, description="The aligned crop, 112×112, as base64 of a JPEG.")


class PictureBody(BaseModel):
    """What was found in one picture, or the problem that this picture met."""

    width: int | None = Field(None, description="Of the picture, in pixels, upright.")
    height: int | None = Field(None, description="Of the picture, in pixels, upright.")
    faces: list[FaceBody] = Field(description="Highest detection score first.")
    read_ms: float | None = Field(None, description="Time to download and decode.")
    analyze_ms: float | None = Field(None, description="Time to find and describe the faces.")
    problem: Problem | None = Field(None, description="Why this picture failed; the others are not affected.")


class DetectAnswer(BaseModel):
    """One entry a picture, in the order of the request."""

    detector: str = Field(description="Name of the detector.", examples=["yunet"])
    images: list[PictureBody]


class ExtractAnswer(BaseModel):
    """One entry a picture, in the order of the request."""

    detector: str = Field(description="Name of the detector.", examples=["yunet"])
    model: str = Field(
        description="The model that made the embeddings: name@digest/preprocessing/dimension.", examples=["sface@fb143eea0783/p1/128d"]
    )
    embedding_format: EmbeddingFormat
    images: list[PictureBody]

"""What InsightFace-REST's requests and answers look like, in its words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from face_server.api.examples import PICTURE_BASE64

LARGEST_MAX_SIZE_PX = 4096
"""The largest ``max_size`` of the early form; also what its 0 ("no resize") means."""

Picture = Annotated[
    str | bytes,
    WithJsonSchema({"type": "string", "description": "Base64 text, with or without a `data:…;base64,` prefix; raw bytes in msgpack."}),
]


class _Request(BaseModel):
    # Fields of other versions of the API are ignored, as they always were; null means the default.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Images(_Request):
    """Pictures, in one of two ways; `urls` win if both are there."""

    data: list[Picture] | None = Field(None, fail_fast=True, description="Pictures as base64 text, or as raw bytes in msgpack.")
    urls: list[str] | None = Field(None, fail_fast=True, description="http(s) addresses of pictures. Paths of files are refused.")


class BodyDraw(_Request):
    """A picture and what to draw on it."""

    images: Images = Field(description="Only the first picture is drawn on.", examples=[{"data": [PICTURE_BASE64]}])
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="Least detection score.", examples=[0.6])
    draw_landmarks: bool | None = Field(True, description="Draw the five landmarks.")
    draw_scores: bool | None = Field(True, description="Write each detection score.")
    draw_sizes: bool | None = Field(True, description="Write the width of each face in pixels.")
    limit_faces: int | None = Field(0, description="Draw the largest faces only, so many of them; 0 draws all.")
    min_face_size: int | None = Field(0, description="Leave out faces narrower than this, in pixels of the picture.")
    detect_masks: bool | None = Field(False, description="Accepted; no mask detector is installed.")


class BodyExtract(_Request):
    """Pictures and what to find out about the faces in them."""

    images: Images = Field(examples=[{"data": [PICTURE_BASE64]}])
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="Least detection score.", examples=[0.6])
    embed_only: bool | None = Field(False, description="The pictures are aligned crops of 112×112 pixels: embed them without detection.")
    return_face_data: bool | None = Field(False, description="Return each aligned crop as base64 JPEG.")
    return_landmarks: bool | None = Field(False, description="Return the five landmarks of each face.")
    extract_embedding: bool | None = Field(True, description="Return each face's embedding.")
    extract_ga: bool | None = Field(False, description="Accepted; no gender and age model is installed, the values are null.")
    detect_masks: bool | None = Field(False, description="Accepted; no mask detector is installed, the values are null.")
    limit_faces: int | None = Field(0, description="Keep the largest faces only, so many of them, largest first; 0 keeps all.")
    min_face_size: int | None = Field(0, description="Leave out faces narrower than this, in pixels of the picture.")
    verbose_timings: bool | None = Field(False, description="Add `read_imgs_ms` and `embed_all_ms` to `took`.")
    msgpack: bool | None = Field(False, description="Answer in msgpack.")
    img_req_headers: dict[str, str] | None = Field(None, description="Headers to fetch `urls` with.", examples=[{}])
    api_ver: Literal["1", "2"] | None = Field(
        None, description='"1" answers in the early list form, "2" as if it was left out. Makes `max_size` count.', examples=["2"]
    )
    max_size: Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_MAX_SIZE_PX)]], Field(min_length=2, max_length=2)] | None = Field(
        None, description="With `api_ver`: width and height that pictures are scaled down to for detection; 0 for no scaling."
    )

    @field_validator("api_ver", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if type(value) is int else value


class _Answer(BaseModel):
    # Describes answers in the OpenAPI document; answers themselves are written without it.
    model_config = ConfigDict(extra="forbid")


class Took(_Answer):
    """How long the request took."""

    total_ms: float
    read_imgs_ms: float | None = Field(None, description="Time spent on reading pictures, added up; with `verbose_timings`.")
    embed_all_ms: float | None = Field(None, description="Time spent on detection and embedding, added up; with `verbose_timings`.")


class ExtractedFace(_Answer):
    """A face in the current form; `norm` to `mask_probs` are absent where nothing but detection was asked for."""

    bbox: list[int] = Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels of the picture, truncated.")
    landmarks: list[list[int]] | None = Field(None, description="Five points; only with `return_landmarks`.")
    prob: float = Field(description="Detection score.")
    num_det: int = Field(description="Place in the list of this picture's faces.")
    scale: float = Field(description="Pixels that detection saw for one pixel of the picture.")
    facedata: str | None = Field(None, description="Aligned crop as base64 JPEG; only with `return_face_data`.")
    norm: float | None = Field(None, description="Length of the embedding before normalising.")
    vec: list[float] | None = Field(None, description="Embedding, a unit vector.")
    gender: int | None = None
    age: int | None = None
    mask: bool | None = None
    mask_probs: dict[str, float] | None = None
    size: int = Field(description="Width of the box.")


class ExtractedImage(_Answer):
    """What became of one picture."""

    status: Literal["ok", "failed"]
    took_ms: float
    faces: list[ExtractedFace]
    traceback: str | None = Field(None, description="One sentence on why the picture failed.")


class ExtractAnswer(_Answer):
    """The current form."""

    took: Took
    data: list[ExtractedImage]


class EarlyFace(_Answer):
    """A face in the early form."""

    status: Literal["Ok"]
    vec: list[float] | None
    det: int
    prob: float
    bbox: list[float]
    norm: float | None
    gender: int | None
    age: int | None
    mask_prob: float | None
    landmarks: list[list[float]] | None = None
    facedata: str | None = None


class EmbeddedCrop(_Answer):
    """A crop that was embedded without detection, or the reason why not."""

    norm: float | None = None
    vec: list[float] | None = None
    gender: int | None = None
    age: int | None = None
    mask: bool | None = None
    mask_probs: dict[str, float] | None = None
    bbox: list[int] | None = None
    size: int | None = None
    prob: float | None = None
    status: Literal["ok", "failed"]
    traceback: str | None = None


class EmbeddedImage(_Answer):
    """The one crop of one picture."""

    status: Literal["ok"]
    took_ms: float
    faces: list[EmbeddedCrop]


class EmbedAnswer(_Answer):
    """The form of `embed_only`."""

    took_ms: float
    data: list[EmbeddedImage]
    status: Literal["ok"]


class Healthy(_Answer):
    """The self-inference worked."""

    status: Literal["ok"]


class Refusal(BaseModel):
    """Why a request was not served."""

    detail: str | list[dict[str, Any]]


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``model`` without references, for a request body that FastAPI does not parse."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        found = (
            definitions[reference.rsplit("/", 1)[-1]] | {key: value for key, value in node.items() if key != "$ref"} if reference else node
        )
        return {key: resolve(value) for key, value in found.items()}

    return dict(resolve(schema))

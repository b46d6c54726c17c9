"""The model ``face_pipeline`` of a remote inference server: what it is asked and what it answers, as tensors.

Both sides use this module, so the wire format is written down once. One request is one picture,
or some aligned crops; tensors have no batch dimension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from face_server.domain.alignment import CROP_SIZE_PX
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.face import Box, Detection, Face
from face_server.domain.image import Image, Pixels
from face_server.domain.network import TensorSpec
from face_server.domain.ports import Analysis, AnalysisOptions, Tensors
from face_server.domain.quality import Pose, Quality
from face_server.errors import InputTooLarge, InvalidImage, InvalidInput, ModelMismatch

NAME: Final = "face_pipeline"

Q = TypeVar("Q")

_QUALITY: Final = ("size_px", "sharpness", "brightness", "yaw", "pitch", "roll", "detection_score", "score")

INPUTS: Final = (
    TensorSpec("encoded", "uint8", (None,)),
    TensorSpec("frame", "uint8", (None, None, 3)),
    TensorSpec("crops", "uint8", (None, CROP_SIZE_PX, CROP_SIZE_PX, 3)),
    TensorSpec("options", "object", (1,)),
)
"""A compressed picture, or BGR pixels, or aligned BGR crops (exactly one of them), and a ``Question`` as JSON."""


def outputs(dimension: int) -> tuple[TensorSpec, ...]:
    """What comes back for n faces whose embeddings have ``dimension`` values, in source-image pixels.

    ``boxes`` are x1, y1, x2, y2; ``quality`` has the columns size_px, sharpness, brightness, yaw,
    pitch, roll, detection_score and score. ``quality``, ``embeddings``, ``norms`` and ``crops``
    have no rows unless they were asked for. ``size`` is the width and height of the source;
    ``model`` the ModelId of the embeddings as text; ``decode_ms`` the time that decoding took.
    """
    return (
        TensorSpec("boxes", "float32", (None, 4)),
        TensorSpec("scores", "float32", (None,)),
        TensorSpec("landmarks", "float32", (None, 5, 2)),
        TensorSpec("quality", "float32", (None, len(_QUALITY))),
        TensorSpec("embeddings", "float32", (None, dimension)),
        TensorSpec("norms", "float32", (None,)),
        TensorSpec("face_crops", "uint8", (None, CROP_SIZE_PX, CROP_SIZE_PX, 3)),
        TensorSpec("size", "int32", (2,)),
        TensorSpec("model", "object", (1,)),
        TensorSpec("decode_ms", "float32", (1,)),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is wanted of one picture.

    ``max_bytes`` and ``max_pixels`` are the asker's limits on a compressed picture, 0 for the
    server's own. ``source_width`` and ``source_height`` are those of the picture that a frame was
    scaled down from, 0 for the frame's own. ``second_pass`` looks again, at another scale, at a
    picture without a face.
    """

    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    max_bytes: int = 0
    max_pixels: int = 0
    source_width: int = 0
    source_height: int = 0
    second_pass: bool = True

    def to_tensor(self) -> NDArray[Any]:
        """The input ``options``."""
        return np.array([json.dumps(asdict(self)).encode()], np.object_)

    @classmethod
    def from_tensor(cls, tensor: NDArray[Any] | None) -> Question:
        """The inverse of ``to_tensor``; the defaults for None. Raises InvalidInput for anything else."""
        return read_question(cls, NAME, tensor)

    def image(self, pixels: Pixels) -> Image:
        """The picture that ``pixels`` stand for. Raises InvalidInput for a source that is smaller than they are."""
        height, width = pixels.shape[:2]
        try:
            return Image(pixels, self.source_width or width, self.source_height or height)
        except ValueError as error:
            raise InvalidInput(f"frame: {error}", field="frame") from error


def read_question(kind: Callable[..., Q], name: str, tensor: NDArray[Any] | None) -> Q:
    """The question to the model ``name`` in an input ``options``; the defaults for None. Raises InvalidInput for anything else."""
    if tensor is None:
        return kind()
    try:
        fields = json.loads(bytes(tensor.reshape(-1)[0]))
        return kind(**{**fields, "analysis": AnalysisOptions(**fields.get("analysis", {}))})
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise InvalidInput(f"options must be the JSON of a question to {name}: {error}", field="options") from error


def answer(found: Analysis, model: ModelId) -> dict[str, NDArray[Any]]:
    """The outputs for the faces of one picture."""
    faces = found.faces
    measured = [face.quality for face in faces if face.quality is not None]
    embedded = [face.embedding for face in faces if face.embedding is not None]
    crops = [face.crop for face in faces if face.crop is not None]
    return {
        "boxes": _rows([(box.x1, box.y1, box.x2, box.y2) for box in (face.detection.box for face in faces)], (4,)),
        "scores": _rows([face.detection.score for face in faces], ()),
        "landmarks": _rows([face.detection.landmarks for face in faces], (5, 2)),
        "quality": _rows([_quality_row(one) for one in measured], (len(_QUALITY),)),
        "embeddings": _rows([one.vector for one in embedded], (model.dimension,)),
        "norms": _rows([one.norm for one in embedded], ()),
        "face_crops": np.array(crops, np.uint8).reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX, 3),
        "size": np.array([found.width, found.height], np.int32),
        "model": np.array([str(model).encode()], np.object_),
        "decode_ms": np.array([found.decode_ms], np.float32),
    }


def read_answer(tensors: Tensors, model: ModelId) -> Analysis:
    """The inverse of ``answer``.

    Raises ModelMismatch if the embeddings are of another model than ``model``.
    """
    made_by = bytes(tensors["model"].reshape(-1)[0]).decode()
    if made_by != str(model):
        raise ModelMismatch(f"{NAME} embeds with {made_by}, this server with {model}; embeddings of different models cannot be compared")
    detections = [
        Detection(Box(*box), score, five)
        for box, score, five in zip(tensors["boxes"].tolist(), tensors["scores"].tolist(), _floats(tensors["landmarks"]), strict=True)
    ]
    nothing = [None] * len(detections)
    measured: list[Quality | None] = [_quality(row) for row in tensors["quality"].tolist()]
    embeddings = Embeddings(_floats(tensors["embeddings"]).reshape(-1, model.dimension), _floats(tensors["norms"]), model)
    faces = zip(
        detections, measured or nothing, list[Embedding | None](embeddings) or nothing, list(tensors["face_crops"]) or nothing, strict=True
    )
    width, height = tensors["size"].tolist()
    return Analysis(width, height, tuple(Face(*face) for face in faces), float(tensors["decode_ms"][0]))


def fault_text(error: InvalidInput) -> str:
    """An error about the picture, as the text of a refusal."""
    return json.dumps({"code": error.code, "field": error.field, "message": error.message}, ensure_ascii=False)


def read_fault(text: str) -> InvalidInput | None:
    """The error behind the text of a refusal; None for the text of another error."""
    start = text.find("{")
    try:
        fields: Mapping[str, Any] = json.loads(text[start:]) if start >= 0 else {}
        code, field, message = fields["code"], fields["field"], fields["message"]
    except (ValueError, KeyError, TypeError):
        return None
    kind = {InvalidImage.code: InvalidImage, InputTooLarge.code: InputTooLarge}.get(code, InvalidInput)
    return kind(message, code=code, field=field)


def _rows(items: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.array(items, np.float32).reshape(len(items), *shape)


def _floats(tensor: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(tensor, np.float32)


def _quality_row(quality: Quality) -> tuple[float, ...]:
    pose = quality.pose
    return (
        quality.size_px,
        quality.sharpness,
        quality.brightness,
        pose.yaw,
        pose.pitch,
        pose.roll,
        quality.detection_score,
        quality.score,
    )


def _quality(row: Sequence[float]) -> Quality:
    size_px, sharpness, brightness, yaw, pitch, roll, detection_score, score = row
    return Quality(size_px, sharpness, brightness, Pose(yaw, pitch, roll), detection_score, score)

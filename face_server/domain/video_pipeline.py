"""The model ``video_pipeline`` of a remote inference server: an encoded video in, one answer for each analysed frame.

Its answers are those of ``face_pipeline`` for the frame (``read_answer`` of that module reads them;
``size`` is the frame's width and height) and where in the video the frame is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from face_server.domain import face_pipeline
from face_server.domain.network import TensorSpec
from face_server.domain.ports import AnalysisOptions

NAME: Final = "video_pipeline"

INPUTS: Final = (
    TensorSpec("video", "uint8", (None,)),
    TensorSpec("options", "object", (1,)),
)
"""A whole video file, and optionally a ``VideoQuestion`` as JSON."""


def outputs(dimension: int) -> tuple[TensorSpec, ...]:
    """What comes for each analysed frame; ``time_s`` and ``frame_number`` (from 0) count from the first frame of the file."""
    return (TensorSpec("time_s", "float32", (1,)), TensorSpec("frame_number", "int64", (1,)), *face_pipeline.outputs(dimension))


@dataclass(frozen=True, slots=True)
class VideoQuestion:
    """What is wanted of a video.

    Every ``every_n``-th frame of the file is analysed, of those at most ``max_fps`` a second (0: all
    of them), from ``start_s`` up to but without ``end_s`` (0: the end of the file).
    """

    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    every_n: int = 1
    max_fps: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0

    def to_tensor(self) -> NDArray[Any]:
        """The input ``options``."""
        return np.array([json.dumps(asdict(self)).encode()], np.object_)

    @classmethod
    def from_tensor(cls, tensor: NDArray[Any] | None) -> VideoQuestion:
        """The inverse of ``to_tensor``; the defaults for None. Raises InvalidInput for anything else."""
        return face_pipeline.read_question(cls, NAME, tensor)

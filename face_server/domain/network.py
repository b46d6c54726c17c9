"""What a backend must know to run a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a tensor; None marks a dimension that may vary."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """An installed network: a prepared ONNX file and its contract.

    Every prepared network takes one input, uint8 N×H×W×3 BGR: colour order, scaling and layout
    are part of the graph. The first dimension of every tensor is the batch. ``digest`` is the
    sha256 of the published weights.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    digest: str = ""


FOREIGN_NAMES = frozenset({"ensemble_scrfd", "face_recog", "pnet", "rnet", "onet", "facenet", "centerface"})
"""Models whose names and tensors clients of other systems rely on; they take no uint8 N×H×W×3."""

_PIPELINES = frozenset({"face_pipeline", "video_pipeline", "face_align", "face_ensemble"})


def served_name(network: str) -> str:
    """What a network is called in a model repository: its own name, unless clients expect another model, or a pipeline, there."""
    return f"{network}_uint8" if network in FOREIGN_NAMES | _PIPELINES else network

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
    are part of the graph. The first dimension of every tensor is the batch.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

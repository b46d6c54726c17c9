"""What a network expects of its pixels and what a family promises about its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What a network is for."""

    DETECTOR = "detector"
    EMBEDDER = "embedder"


class Colour(StrEnum):
    """Order of the three channels."""

    BGR = "bgr"
    RGB = "rgb"


@dataclass(frozen=True, slots=True)
class InputContract:
    """How the published network wants its pixels: ``(x − mean) · scale`` of 0..255 in ``colour`` order.

    ``mean`` has one value a channel, in ``colour`` order. ``tensor`` is the input's name after
    preparation. ``size_px`` is the fixed side of a square input, None where any multiple of
    ``stride`` will do.
    """

    tensor: str
    colour: Colour
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    size_px: int | None = None
    stride: int = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a family says about its published graphs: their pixels and, in order, clear names of their outputs.

    With ``surplus`` a graph may have more outputs after those; they are cut off.
    """

    contract: InputContract
    outputs: tuple[str, ...]
    surplus: bool = False


@dataclass(frozen=True, slots=True)
class EmbedderFamily:
    """Recognition networks that share one contract: 112×112 aligned crops in, N×d features out.

    ``preprocessing`` counts changes of alignment or scaling that move embeddings (see ModelId).
    """

    recipe: Recipe
    preprocessing: int

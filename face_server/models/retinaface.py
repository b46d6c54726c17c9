"""RetinaFace: Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019.

The five-landmark networks with priors at strides 8, 16, 32 (MobileNet 0.25 and ResNet-50 exports
that return boxes, class probabilities and landmarks).
"""

from __future__ import annotations

import functools

import numpy as np

from face_server.domain.image import Floats
from face_server.domain.ports import Tensors
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.decoding import Collector, RawDetections, corners

_PRIOR_SIDES_PX = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
_CENTRE_VARIANCE = np.float32(0.1)
_SIZE_VARIANCE = np.float32(0.2)


@functools.lru_cache(maxsize=32)
def _priors(height: int, width: int) -> Floats:
    """P×3: centre x, centre y and side of every square prior, in canvas pixels."""
    levels = []
    for stride, sides in _PRIOR_SIDES_PX.items():
        rows, columns, anchors = np.mgrid[0 : height // stride, 0 : width // stride, 0 : len(sides)]
        level = ((columns + 0.5) * stride, (rows + 0.5) * stride, np.array(sides)[anchors])
        levels.append(np.stack([values.ravel() for values in level], axis=1))
    priors = np.concatenate(levels).astype(np.float32)
    priors.setflags(write=False)
    return priors


class RetinaFace:
    """Offsets from square priors, scaled by SSD's variances."""

    recipe = Recipe(
        InputContract("images", Colour.BGR, mean=(104.0, 117.0, 123.0)),
        ("boxes", "scores", "landmarks"),
    )
    min_score = 0.6
    max_iou = 0.4

    def decode(self, outputs: Tensors, height: int, width: int, min_score: float) -> list[RawDetections]:
        """Faces whose probability is >= ``min_score``."""
        scores = outputs["scores"][..., 1]
        found = Collector(len(scores))
        picture, index = np.nonzero(scores >= np.float32(min_score))
        if picture.size:
            prior = _priors(height, width)[index]
            centre, side = prior[:, :2], prior[:, 2:]
            offset = outputs["boxes"][picture, index]
            boxes = corners(centre + offset[:, :2] * _CENTRE_VARIANCE * side, side * np.exp(offset[:, 2:] * _SIZE_VARIANCE))
            points = outputs["landmarks"][picture, index].reshape(-1, 5, 2)
            found.add(picture, boxes, scores[picture, index], centre[:, None] + points * _CENTRE_VARIANCE * side[:, None])
        return found.split()

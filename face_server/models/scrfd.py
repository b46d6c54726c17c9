"""SCRFD: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", 2021."""

from __future__ import annotations

import numpy as np

from face_server.domain.ports import Tensors
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.decoding import Collector, RawDetections, cells

_STRIDES = (8, 16, 32)
_ANCHORS = 2


class Scrfd:
    """Two anchors a cell: score, distances to the four sides, landmark offsets, in strides."""

    recipe = Recipe(
        InputContract("images", Colour.RGB, mean=(127.5, 127.5, 127.5), scale=1 / 128),
        tuple(f"{head}_{stride}" for head in ("score", "bbox", "kps") for stride in _STRIDES),
    )
    min_score = 0.5
    max_iou = 0.4

    def decode(self, outputs: Tensors, height: int, width: int, min_score: float) -> list[RawDetections]:  # noqa: ARG002 -- rows follow from the outputs
        """Faces with score >= ``min_score``."""
        found = Collector(len(outputs["score_8"]))
        for stride in _STRIDES:
            scores = outputs[f"score_{stride}"][..., 0]
            picture, anchor = np.nonzero(scores >= np.float32(min_score))
            if not picture.size:
                continue
            step = np.float32(stride)
            centre = cells(anchor // _ANCHORS, width // stride) * step
            sides = outputs[f"bbox_{stride}"][picture, anchor] * step
            boxes = np.concatenate((centre - sides[:, :2], centre + sides[:, 2:]), axis=1)
            offsets = outputs[f"kps_{stride}"][picture, anchor].reshape(-1, 5, 2) * step
            found.add(picture, boxes, scores[picture, anchor], offsets + centre[:, None])
        return found.split()

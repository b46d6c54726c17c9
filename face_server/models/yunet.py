"""YuNet: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023. Anchor-free, strides 8, 16, 32."""

from __future__ import annotations

import numpy as np

from face_server.domain.ports import Tensors
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.decoding import Collector, RawDetections, cells, corners

_STRIDES = (8, 16, 32)


class YuNet:
    """Per cell: class and object probability, box (centre offset, log size), landmark offsets, in strides."""

    recipe = Recipe(
        InputContract("images", Colour.BGR),
        tuple(f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps") for stride in _STRIDES),
    )
    min_score = 0.6
    max_iou = 0.3

    def decode(self, outputs: Tensors, height: int, width: int, min_score: float) -> list[RawDetections]:  # noqa: ARG002 -- rows follow from the outputs
        """Faces with sqrt(class · object) >= ``min_score``."""
        found = Collector(len(outputs["cls_8"]))
        for stride in _STRIDES:
            product = outputs[f"cls_{stride}"][..., 0] * outputs[f"obj_{stride}"][..., 0]
            picture, cell = np.nonzero(product >= np.float32(min_score * min_score))
            if not picture.size:
                continue
            origin = cells(cell, width // stride)
            box = outputs[f"bbox_{stride}"][picture, cell]
            step = np.float32(stride)
            boxes = corners((origin + box[:, :2]) * step, np.exp(box[:, 2:]) * step)
            offsets = outputs[f"kps_{stride}"][picture, cell].reshape(-1, 5, 2)
            found.add(picture, boxes, np.sqrt(product[picture, cell]), (offsets + origin[:, None]) * step)
        return found.split()

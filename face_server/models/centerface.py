"""CenterFace: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019."""

from __future__ import annotations

import numpy as np

from face_server.domain.ports import Tensors
from face_server.models.contract import Colour, InputContract, Recipe
from face_server.models.decoding import Collector, RawDetections, corners

_STRIDE = np.float32(4)


class CenterFace:
    """A heatmap of centres at stride 4 with log size, centre offset and landmarks, each y before x."""

    recipe = Recipe(InputContract("images", Colour.RGB), ("heatmap", "scale", "offset", "landmarks"))
    min_score = 0.5
    max_iou = 0.3

    def decode(self, outputs: Tensors, height: int, width: int, min_score: float) -> list[RawDetections]:  # noqa: ARG002 -- rows follow from the outputs
        """Faces with heatmap >= ``min_score``; landmarks are fractions of the box from its corner."""
        heatmap = outputs["heatmap"][:, 0]
        found = Collector(len(heatmap))
        picture, row, column = np.nonzero(heatmap >= np.float32(min_score))
        if picture.size:
            cell = np.stack((column, row), axis=1).astype(np.float32)
            offset = outputs["offset"][picture, ::-1, row, column]
            size = np.exp(outputs["scale"][picture, ::-1, row, column]) * _STRIDE
            boxes = corners((cell + offset + np.float32(0.5)) * _STRIDE, size)
            points = outputs["landmarks"][picture, :, row, column].reshape(-1, 5, 2)[:, :, ::-1]
            found.add(picture, boxes, heatmap[picture, row, column], points * size[:, None] + boxes[:, None, :2])
        return found.split()

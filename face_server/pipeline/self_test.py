"""Does the whole image path work here? Tried on a picture of nobody, drawn for the purpose."""

from __future__ import annotations

import cv2
import numpy as np

from face_server.domain.alignment import CROP_SIZE_PX
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import AnalysisOptions, Analyzer

_SIDE_PX = 320
_UNIT_TOLERANCE = 1e-3
_REPEAT_SIMILARITY = 0.999
_OTHER_SIMILARITY = 0.9


async def self_test(analyzer: Analyzer, options: AnalysisOptions) -> str | None:
    """Run detection and embedding once; None if all is well, or else one sentence saying what is not.

    No face needs to be found (not every detector takes a drawing for one), but detection must run, and
    embeddings must have length 1, repeat for the same crop and differ for another.
    """
    picture = drawn_face()
    await analyzer.analyze([Image.from_pixels(picture)], options)
    crop = cv2.resize(picture, (CROP_SIZE_PX, CROP_SIZE_PX), interpolation=cv2.INTER_AREA)
    crops = [Image.from_pixels(np.ascontiguousarray(pixels)) for pixels in (crop, crop, crop[::-1])]
    embeddings = [face.embedding for face in await analyzer.embed_crops(crops)]
    first, again, other = embeddings
    if first is None or again is None or other is None:
        return "the analyzer made no embeddings"
    length = float(np.linalg.norm(first.vector))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:
        return f"an embedding has length {length:.3f} instead of 1"
    if first.similarity(again) < _REPEAT_SIMILARITY:
        return f"the same crop twice has similarity {first.similarity(again):.3f} instead of 1"
    if first.similarity(other) > _OTHER_SIMILARITY:
        return f"two different crops have similarity {first.similarity(other):.3f}"
    return None


def drawn_face() -> Pixels:
    """A 320×320 BGR drawing of a face in front of a grey wall."""
    skin, shadow, hair, white, dark, lips = (140, 170, 215), (105, 130, 175), (40, 50, 60), (240, 240, 240), (50, 60, 75), (90, 90, 180)
    picture = np.full((_SIDE_PX, _SIDE_PX, 3), (150, 140, 130), np.uint8)
    smooth = cv2.LINE_AA
    cv2.ellipse(picture, (160, 170), (70, 95), 0, 0, 360, skin, -1, smooth)
    cv2.ellipse(picture, (160, 110), (75, 60), 0, 180, 360, hair, -1, smooth)
    for x in (130, 190):
        cv2.ellipse(picture, (x, 150), (15, 8), 0, 0, 360, white, -1, smooth)
        cv2.circle(picture, (x, 150), 7, dark, -1, smooth)
        cv2.ellipse(picture, (x, 132), (18, 6), 0, 180, 360, dark, 4, smooth)
    cv2.line(picture, (160, 155), (153, 188), shadow, 3, smooth)
    cv2.ellipse(picture, (160, 190), (12, 6), 0, 0, 180, shadow, 3, smooth)
    cv2.ellipse(picture, (160, 218), (26, 9), 0, 0, 360, lips, -1, smooth)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 2.0), np.uint8)

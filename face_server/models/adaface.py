"""AdaFace: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", 2022."""

from __future__ import annotations

from face_server.models.contract import Colour, EmbedderFamily, InputContract, Recipe

ADAFACE = EmbedderFamily(
    Recipe(InputContract("crops", Colour.BGR, mean=(127.5, 127.5, 127.5), scale=1 / 127.5, size_px=112), ("features",), surplus=True),
    preprocessing=1,
)
"""BGR, (x − 127.5) / 127.5. ArcFace template. Usual exports give the feature's length as a second output."""

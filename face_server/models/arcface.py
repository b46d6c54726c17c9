"""ArcFace: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019.

The contract of MobileFaceNet, ResNet-50 and ResNet-100 exports and of most networks trained after it.
"""

from __future__ import annotations

from face_server.models.contract import Colour, EmbedderFamily, InputContract, Recipe

ARCFACE = EmbedderFamily(
    Recipe(InputContract("crops", Colour.RGB, mean=(127.5, 127.5, 127.5), scale=1 / 127.5, size_px=112), ("features",)),
    preprocessing=1,
)
"""RGB, (x − 127.5) / 127.5. ArcFace template."""

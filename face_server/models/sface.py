"""SFace: Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", 2021."""

from __future__ import annotations

from face_server.models.contract import Colour, EmbedderFamily, InputContract, Recipe

SFACE = EmbedderFamily(Recipe(InputContract("crops", Colour.RGB, size_px=112), ("features",)), preprocessing=1)
"""RGB 0..255: the published graph subtracts and scales itself. ArcFace template."""

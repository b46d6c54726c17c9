"""Every family of networks this system can run. A new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from face_server.errors import WeightsError
from face_server.models.adaface import ADAFACE
from face_server.models.arcface import ARCFACE
from face_server.models.centerface import CenterFace
from face_server.models.contract import EmbedderFamily, Task
from face_server.models.decoding import DetectorFamily
from face_server.models.retinaface import RetinaFace
from face_server.models.scrfd import Scrfd
from face_server.models.sface import SFACE
from face_server.models.yunet import YuNet

FAMILIES: Mapping[str, DetectorFamily | EmbedderFamily] = {
    "yunet": YuNet(),
    "centerface": CenterFace(),
    "scrfd": Scrfd(),
    "retinaface": RetinaFace(),
    "sface": SFACE,
    "arcface": ARCFACE,
    "adaface": ADAFACE,
}


def family_of(name: str) -> DetectorFamily | EmbedderFamily:
    """The family called ``name``. Raises WeightsError listing the known ones."""
    if name not in FAMILIES:
        raise WeightsError(f"{name!r} is no known family of networks; known are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def task_of(name: str) -> Task:
    """What networks of the family called ``name`` are for."""
    return Task.EMBEDDER if isinstance(family_of(name), EmbedderFamily) else Task.DETECTOR


def detector_family(name: str) -> DetectorFamily:
    """The detection family called ``name``. Raises WeightsError if it is something else."""
    family = family_of(name)
    if isinstance(family, EmbedderFamily):
        raise WeightsError(f"{name!r} networks make embeddings, they do not find faces")
    return family


def embedder_family(name: str) -> EmbedderFamily:
    """The recognition family called ``name``. Raises WeightsError if it is something else."""
    family = family_of(name)
    if not isinstance(family, EmbedderFamily):
        raise WeightsError(f"{name!r} networks find faces, they do not make embeddings")
    return family

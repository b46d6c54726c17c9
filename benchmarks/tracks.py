"""How few embeddings a track needs, against embedding every face of every frame: ``python -m benchmarks.tracks``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import replace_section, table
from benchmarks.watched import Parts, film, open_parts
from face_server.domain.face import Box, Face
from face_server.domain.frame import Frame
from face_server.domain.geometry import boxes_iou
from face_server.domain.image import Floats
from face_server.domain.ports import AnalysisOptions
from face_server.domain.streams import StreamRules, StreamSpec
from face_server.domain.tracks import SeenTrack
from face_server.models.weights import WeightsStore
from face_server.pipeline.recognition import IdentifyOptions
from face_server.pipeline.watching import CameraWatcher, WatchCounts

FILMS = ("street_1080p", "stage_360p")

PRESENT = {"street_1080p": frozenset[str](), "stage_360p": frozenset({"lin_manuel_miranda", "alex_lacamoire", "obama"})}
"""Who of the enrolled is in a film."""

_SAME_FACE_IOU = 0.5


@dataclass
class Named:
    """How many faces got which name, summed over the frames."""

    faces: Counter[str] = field(default_factory=Counter)

    def right(self, film_name: str) -> int:
        """Faces named after somebody who is in the film."""
        return sum(count for name, count in self.faces.items() if name in PRESENT[film_name])

    def wrong(self, film_name: str) -> int:
        """Faces named after somebody who is not."""
        return self.faces.total() - self.right(film_name)

    def people(self, film_name: str) -> frozenset[str]:
        """Who of those in the film was named at all."""
        return PRESENT[film_name] & self.faces.keys()


@dataclass(frozen=True)
class TracksResult:
    """One film, watched and, for comparison, with every face of every analysed frame embedded.

    ``contradicted`` are faces that the watcher gave another name than the comparison did.
    """

    film: str
    fps: float
    counts: WatchCounts
    watched: Named
    announced: tuple[str, ...]
    strangers: int
    every_face: Named
    every_face_embeddings: int
    contradicted: int

    @property
    def per_track(self) -> float:
        """Embeddings of a track on average."""
        return self.counts.embeddings / max(1, self.counts.tracks)


async def measure(weights: WeightsStore, shared: Path) -> list[TracksResult]:
    """Watch each film at 5 analysed frames a second and at every frame, with everybody of the test photos enrolled."""
    results = []
    for name in FILMS:
        for fps in (5.0, 0.0):
            with tempfile.TemporaryDirectory() as folder:
                async with open_parts(weights, Path(folder)) as parts:
                    for person in sorted((shared / "data" / "photos" / "people").iterdir()):
                        await parts.enroll(person)
                    results.append(await _watch(parts, name, shared / "data" / "videos" / f"{name}.mp4", fps))
    return results


def section(results: Sequence[TracksResult]) -> str:
    """The section of the page."""
    head = [
        "film", "analysed", "tracks", "embeddings", "a track", "people named", "faces named right / wrong",
        "every face: embeddings", "every face: people named", "every face: right / wrong", "contradicted", "strangers",
    ]  # fmt: skip
    rows = [
        [
            one.film,
            f"{one.fps:g} fps" if one.fps else "every frame",
            str(one.counts.tracks),
            str(one.counts.embeddings),
            f"{one.per_track:.2f}",
            str(len(one.watched.people(one.film))),
            f"{one.watched.right(one.film)} / {one.watched.wrong(one.film)}",
            str(one.every_face_embeddings),
            str(len(one.every_face.people(one.film))),
            f"{one.every_face.right(one.film)} / {one.every_face.wrong(one.film)}",
            str(one.contradicted),
            str(one.strangers),
        ]
        for one in results
    ]
    return f"## Embeddings of a track\n\n{_METHOD}\n\n{table(head, rows)}\n"


_METHOD = """Ten people are enrolled; three of them are in stage_360p, none in street_1080p. A stream embeds the best shots of a track
and decides by votes; the comparison embeds every face of every analysed frame and names each by itself. Faces are summed over
frames; contradicted are those that got different names."""


async def _watch(parts: Parts, name: str, file: Path, fps: float) -> TracksResult:
    spec = StreamSpec(name, "file:film", rules=StreamRules())
    watcher = CameraWatcher(spec, parts.tools)
    watched, every_face = Named(), Named()
    announced: list[str] = []
    strangers: set[str] = set()
    embeddings = contradicted = 0
    for frame in film(file, fps, parts.clock):
        await parts.clock.advance(frame.captured_at - parts.clock.monotonic())
        look = await watcher.look(frame)
        announced += [event.who.name for event in look.events if event.who and event.kind == "person_seen"]
        seen = [one for one in look.tracks if not one.track.missed]
        strangers |= {one.who.stranger_id for one in seen if one.who and one.who.stranger_id}
        watched.faces.update(one.who.name for one in seen if one.who and one.who.identity_id)
        faces, names = await _every_face(parts, spec.rules, frame)
        embeddings += len(faces)
        every_face.faces.update(filter(None, names))
        contradicted += sum(_contradicts(face, given, seen) for face, given in zip(faces, names, strict=True) if given)
    return TracksResult(name, fps, watcher.counts, watched, tuple(announced), len(strangers), every_face, embeddings, contradicted)


async def _every_face(parts: Parts, rules: StreamRules, frame: Frame) -> tuple[list[Face], list[str]]:
    """The faces that a stream would look at, and the name of each by its own embedding alone."""
    image = await parts.workers.run(frame.image)
    options = AnalysisOptions(parts.tools.min_score, rules.detection_size_px, quality=False)
    (found,) = await parts.analyzer.analyze([image], options)
    faces = [face for face in found if min(face.detection.box.width, face.detection.box.height) >= rules.min_face_px]
    decisions = await parts.tools.recognition.identify_faces("default", faces, IdentifyOptions(limit=1))
    return faces, [decision.match.identity.name if decision.match else "" for decision in decisions]


def _contradicts(face: Face, name: str, seen: Sequence[SeenTrack]) -> bool:
    """Whether the track of a face bears another name than ``name``."""
    named = [one for one in seen if one.who and one.who.identity_id]
    if not named:
        return False
    overlaps = boxes_iou(np.stack([_corners(one.track.detection.box) for one in named]), _corners(face.detection.box))
    best = int(overlaps.argmax())
    who = named[best].who
    return bool(overlaps[best] >= _SAME_FACE_IOU and who is not None and who.name != name)


def _corners(box: Box) -> Floats:
    return np.array([box.x1, box.y1, box.x2, box.y2], np.float32)


def main() -> None:
    """Watch the films and print the section."""
    parser = argparse.ArgumentParser(description="embeddings of a track")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--models", type=Path, default=Path("data/models"), help="folder of installed networks")
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    store = WeightsStore(arguments.models, [arguments.shared / "models"])
    text = section(asyncio.run(measure(store, arguments.shared)))
    sys.stdout.write(text)
    if arguments.out:
        replace_section(arguments.out, "tracks", text)


if __name__ == "__main__":
    main()

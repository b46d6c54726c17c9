"""Films as a stream's eyes see them: real networks, a gallery of its own, and a clock that is moved by the film."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from face_server.backends.onnx import OnnxBackend
from face_server.clock import FakeClock
from face_server.domain.frame import Frame
from face_server.domain.identity import Collection, Identity
from face_server.domain.image import Pixels
from face_server.gallery.sqlite import SqliteGallery
from face_server.models.detector import NetworkDetector
from face_server.models.embedder import NetworkEmbedder
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.pipeline.enrollment import Enrollment, EnrollmentPolicy
from face_server.pipeline.intake import Intake, IntakeLimits
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.strangers import StrangerBook
from face_server.pipeline.watching import WatchTools
from face_server.video.images import Codec, ImageLimits
from face_server.video.remote import NoFetcher
from face_server.video.scene import draw_scene
from face_server.workers import Workers


@dataclass(frozen=True, eq=False)
class Parts:
    """What watching works with, an analyzer to compare it with, and a way to enrol people."""

    tools: WatchTools
    analyzer: LocalAnalyzer
    gallery: SqliteGallery
    strangers: StrangerBook
    enrollment: Enrollment
    clock: FakeClock
    workers: Workers

    async def enroll(self, folder: Path, *, collection: str = "default") -> None:
        """Enrol the person whose photos lie in ``folder``, under its name, with every photo that has a face."""
        for photo in await self.workers.run(lambda: sorted(folder.iterdir())):
            data = await self.workers.run(photo.read_bytes)
            await self.enrollment.enroll(collection, Identity(folder.name, folder.name), data, override=True)


@asynccontextmanager
async def open_parts(weights: WeightsStore, folder: Path, *, detector: str = "yunet", embedder: str = "sface") -> AsyncIterator[Parts]:
    """Everything, with an empty collection "default" in a gallery in ``folder``."""
    finder, knower = weights.entry(detector), weights.entry(embedder)
    networks = [weights.pull(detector), weights.pull(embedder)]
    clock = FakeClock()
    with Workers() as workers:
        backend = await OnnxBackend.open(networks, workers)
        finding = NetworkDetector(finder, backend, workers)
        knowing = NetworkEmbedder(knower, networks[1], backend)
        gallery = await SqliteGallery.open(folder / "gallery.sqlite", workers, clock)
        await gallery.create_collection(Collection("default", knowing.model))
        codec = Codec(workers, ImageLimits())
        analyzer = LocalAnalyzer(finding, knowing, workers)
        calibration = knower.recognition.calibration
        recognition = Recognition(gallery, {knowing.model: calibration} if calibration else {})
        intake = Intake(codec, NoFetcher(), analyzer, workers, IntakeLimits())
        enrollment = Enrollment(intake, analyzer, codec, gallery, recognition, clock, EnrollmentPolicy())
        strangers = StrangerBook(gallery, recognition, codec, clock)
        score = finder.detection_score
        tools = WatchTools(finding, knowing, recognition, gallery, codec, workers, clock, draw_scene, strangers, min_score=score)
        yield Parts(tools, analyzer, gallery, strangers, enrollment, clock, workers)
        await gallery.close()
        await backend.close()


def film(file: Path, fps: float, clock: FakeClock, *, start_s: float = 0.0, end_s: float = 1e9) -> Iterator[Frame]:
    """The frames of a film from ``start_s`` to ``end_s``, at most ``fps`` a second (0: all of them).

    The film begins when the first frame is taken: its first second is now.
    """
    monotonic, unix = clock.monotonic() - start_s, clock.now() - start_s
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 25)
        due = start_s
        for number, picture in enumerate(container.decode(stream)):
            at = number / rate
            if at >= end_s:
                return
            if at >= due - 1e-6:
                due += 1 / fps if fps else 0
                yield _frame(number, picture, monotonic + at, unix + at, at)


def _frame(number: int, picture: av.VideoFrame, captured_at: float, taken_at: float, position_s: float) -> Frame:
    def convert(width: int, height: int) -> Pixels:
        return np.asarray(picture.to_ndarray(format="bgr24", width=width, height=height, interpolation="AREA"), np.uint8)

    return Frame(number, (picture.width, picture.height), convert, captured_at=captured_at, taken_at=taken_at, position_s=position_s)

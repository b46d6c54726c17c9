"""Faces drawn onto their picture, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from face_server.domain.face import Face
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import PaintOptions
from face_server.video.drawing import Colour, Pen
from face_server.video.jpeg import encode_jpeg
from face_server.workers import Workers

_BOX: Colour = (60, 200, 60)
_BOX_WITHOUT_NAME: Colour = (0, 165, 255)

_JPEG_QUALITY = 90


class JpegPainter:
    """``Painter`` that answers JPEG and draws in worker threads."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def paint(self, image: Image, faces: Sequence[Face], options: PaintOptions) -> bytes:
        """See ``Painter.paint``."""
        return await self._workers.run(_paint, image, faces, options)


def _paint(image: Image, faces: Sequence[Face], options: PaintOptions) -> bytes:
    across, down = image.source_scale
    return encode_jpeg(draw_faces(image.pixels, faces, options, scale=(1 / across, 1 / down)), _JPEG_QUALITY)


def draw_faces(pixels: Pixels, faces: Sequence[Face], options: PaintOptions, *, scale: tuple[float, float] = (1.0, 1.0)) -> Pixels:
    """A copy of ``pixels`` (H×W×3 BGR) with boxes and what ``options`` ask for.

    ``faces`` are in source pixels; ``scale`` is pixels per source pixel, where ``pixels`` are a
    smaller decode. ``options.names`` go with ``faces`` in order; a face without one is drawn in
    another colour once any name is given.
    """
    canvas = pixels.copy()
    pen = Pen(canvas)
    names = options.names + ("",) * len(faces)
    marks = [(face.detection.scaled(*scale), face, name) for face, name in zip(faces, names, strict=False)]
    for detection, _, name in marks:
        pen.box(detection.box, _BOX if name or not options.names else _BOX_WITHOUT_NAME)
        if options.landmarks:
            pen.landmarks(detection.landmarks, detection.box.width)
    # Text comes last, so that no neighbour's box strikes it through.
    for detection, face, name in marks:
        score = f"{detection.score:.2f}" if options.scores else ""
        pen.label(" ".join(part for part in (name, score) if part), detection.box, above=True)
        if options.sizes:
            pen.label(f"w:{round(face.detection.box.width)}", detection.box, above=False)
    pen.footer(options.footer)
    return canvas

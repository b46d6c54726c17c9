"""What the demonstrations share: their arguments, and pictures and videos of a drawn face."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from face_server.pipeline.self_test import drawn_face

_PICTURES = 100
_FPS = 10
_WIDTH, _HEIGHT = 640, 360


def arguments_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of a demonstration; ``description`` is its documentation, of which the first line is shown."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--once", action="store_true")
    return parser


def draw_photo(file: Path) -> Path:
    """A picture of a drawn face."""
    cv2.imwrite(str(file), drawn_face())
    return file


def draw_video(file: Path) -> Path:
    """Ten seconds in which a drawn face comes, looks and goes."""
    room = _WIDTH - drawn_face().shape[1]
    places = [round(room * (0.5 + 0.4 * np.sin(2 * np.pi * number / _PICTURES))) for number in range(_PICTURES)]
    return _film(file, [place if number > _FPS else None for number, place in enumerate(places)])


def draw_visits(file: Path, *, here_s: float = 1.5, away_s: float = 1.5, visits: int = 4) -> Path:
    """A video in which a drawn face comes and goes ``visits`` times."""
    room, pictures = _WIDTH - drawn_face().shape[1], range(round((here_s + away_s) * _FPS))
    places = [room * visit // max(1, visits - 1) for visit in range(visits)]
    return _film(file, [place if number < here_s * _FPS else None for place in places for number in pictures])


def _film(file: Path, places: Iterable[int | None]) -> Path:
    """A video with the drawn face so many pixels from the left of each picture, or nobody."""
    face = drawn_face()
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"g": str(_FPS), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = _WIDTH, _HEIGHT, "yuv420p", Fraction(1, _FPS)
        for x in places:
            picture = np.full((_HEIGHT, _WIDTH, 3), (150, 140, 130), np.uint8)
            if x is not None:
                picture[20 : 20 + face.shape[0], x : x + face.shape[1]] = face
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    return file

"""What a viewer of a stream sees: who is in view, or that nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from face_server.domain.image import Pixels
from face_server.domain.tracks import SeenTrack
from face_server.video.drawing import Colour, Pen, blank, printable

NAMED: Colour = (60, 200, 60)
STRANGER: Colour = (0, 165, 255)
UNDECIDED: Colour = (190, 190, 190)

_MAX_NAME = 40
"""A longer name is cut, so that the similarity after it stays on the plate."""

_CARD: Colour = (40, 36, 32)
_CARD_DIM: Colour = (170, 165, 160)


def draw_scene(pixels: Pixels, tracks: Sequence[SeenTrack], footer: str) -> Pixels:
    """A copy of ``pixels`` (H×W×3 BGR) with the tracks (in these pixels) and a footer line; a ``DrawScene``.

    Enrolled people are green, strangers orange, people who are not decided yet grey. A label has the
    name, the track's id and the similarity of the decision. A face that was not found on the newest
    frame has a thinner box.
    """
    canvas = pixels.copy()
    pen = Pen(canvas)
    for seen in tracks:
        pen.box(seen.track.detection.box, _colour(seen), line_px=max(1, pen.line_px // 2) if seen.track.missed else 0)
    # Text comes last, so that no neighbour's box strikes it through.
    for seen in tracks:
        pen.label(_label(seen), seen.track.detection.box, above=True)
    pen.footer(footer)
    return canvas


def no_signal_card(width: int, height: int, title: str, since: float | None, *, now: float | None = None) -> Pixels:
    """A still picture (H×W×3 BGR) that says that the camera is away.

    ``since`` is the Unix second of the last frame, None where none has come yet; ``now`` is shown as
    a clock, so that viewers see that the picture itself is alive. Times are the machine's local ones.
    """
    canvas = blank(width, height, _CARD)
    pen = Pen(canvas)
    pen.centred(title, middle=0.36, size_px=pen.text_px, colour=_CARD_DIM)
    pen.centred("no signal", middle=0.47, size_px=2 * pen.text_px)
    pen.centred(f"since {local_time(since)}" if since is not None else "no picture yet", middle=0.58, size_px=pen.text_px, colour=_CARD_DIM)
    if now is not None:
        pen.centred(local_time(now), middle=0.9, size_px=pen.text_px, colour=_CARD_DIM)
    return canvas


def local_time(unix_s: float) -> str:
    """A Unix second as date and time where this machine is."""
    return f"{datetime.fromtimestamp(unix_s, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _colour(seen: SeenTrack) -> Colour:
    if seen.who is None:
        return UNDECIDED
    return STRANGER if seen.who.stranger_id else NAMED


def _label(seen: SeenTrack) -> str:
    if seen.who is None:
        return f"#{seen.track.id}"
    return f"#{seen.track.id} {printable(seen.who.name)[:_MAX_NAME]} {seen.who.similarity:.2f}"

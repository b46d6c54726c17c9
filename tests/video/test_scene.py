"""What viewers of a stream see."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.domain.events import Who
from face_server.domain.face import Box
from face_server.domain.image import Pixels
from face_server.video.scene import NAMED, STRANGER, UNDECIDED, draw_scene, local_time, no_signal_card

from .publishing import track_at

ADA = Who("Ada Lovelace", 0.71, 0.41, "default", "1")
STRANGER_4 = Who("Stranger 4", 0.55, 0.5, stranger_id="4")


def grey(width: int = 640, height: int = 480) -> Pixels:
    """A grey picture."""
    return np.full((height, width, 3), 120, np.uint8)


def titled(name: str) -> Pixels:
    """The place above the box where a name is written."""
    return draw_scene(grey(), [track_at(1, Box(100, 150, 300, 400), 0, Who(name, 0.7, 0.4, "default", "1"))], "")[115:149, 100:]


def test_kinds_of_people_have_colours() -> None:
    """Boxes lie where the faces are: green for enrolled people, orange for strangers, grey while undecided."""
    tracks = [
        track_at(index, Box(50 + 200 * index, 100, 150 + 200 * index, 230), 0, who) for index, who in enumerate((ADA, STRANGER_4, None))
    ]
    before = grey()
    drawn = draw_scene(before, tracks, "")
    assert (before == 120).all(), "the input is left alone"
    for index, colour in enumerate((NAMED, STRANGER, UNDECIDED)):
        assert tuple(drawn[180, 50 + 200 * index]) == tuple(drawn[230, 100 + 200 * index]) == colour
        assert (drawn[110:220, 60 + 200 * index : 140 + 200 * index] == 120).all(), "nothing covers the face"


def test_label_tells_track_name_and_similarity() -> None:
    """Another id, name or similarity makes another label; an undecided track has its id alone."""
    box = Box(100, 150, 300, 400)
    labels = {
        draw_scene(grey(), [track_at(number, box, 0, Who(name, similarity, 0.4, "default", "1"))], "")[115:149].tobytes()
        for number, name, similarity in ((1, "Ada", 0.71), (2, "Ada", 0.71), (1, "Eda", 0.71), (1, "Ada", 0.72))
    }
    assert len(labels) == 4
    undecided = draw_scene(grey(), [track_at(1, box, 0)], "")[115:149]
    assert (undecided[:, 180:] == 120).all()
    assert (undecided[:, 100:180] > 240).any()


@pytest.mark.parametrize("name", ["张三", "東京タワー", "김철수", "Привет"])
def test_names_of_many_scripts(name: str) -> None:
    """Each character of a Chinese, Japanese, Korean or Cyrillic name has a glyph of its own, none a question mark or an empty box."""
    glyphs = {titled(character).tobytes() for character in name}
    assert len(glyphs) == len(set(name))
    assert titled("?").tobytes() not in glyphs
    assert titled("\ue000").tobytes() not in glyphs


def test_long_names_leave_the_similarity_readable() -> None:
    """A name of any length is cut before the similarity, not after it."""
    low, high = (
        draw_scene(grey(), [track_at(1, Box(0, 150, 300, 400), 0, Who("n" * 200, s, 0.4, "default", "1"))], "") for s in (0.5, 0.9)
    )
    assert (low != high).any()


def test_prediction_has_a_thinner_box() -> None:
    """A face that was not found on the newest frame is drawn with a thinner line."""
    box = Box(300, 300, 900, 900)
    found, missed = (draw_scene(grey(1920, 1080), [track_at(1, box, 0, ADA, missed=missed)], "")[600] for missed in (0, 3))
    assert (missed != 120).any(axis=1).sum() < (found != 120).any(axis=1).sum()


@pytest.mark.parametrize("box", [Box(-50, -50, 60, 60), Box(600, 440, 700, 520), Box(-1e9, -1e9, 1e9, 1e9), Box(900, 900, 1000, 1000)])
def test_people_at_the_edges(box: Box) -> None:
    """Boxes partly or wholly outside are no trouble, and the label stays in the picture."""
    drawn = draw_scene(grey(), [track_at(1, box, 0, ADA)], "")
    assert drawn.shape == (480, 640, 3)
    assert ((drawn > 230).all(axis=2)).sum() > 20


def test_text_follows_the_size_of_the_picture() -> None:
    """Text on a picture three times as large is about three times as high."""
    heights = []
    for scale in (1, 3):
        drawn = draw_scene(grey(640 * scale, 480 * scale), [], "Front door")
        heights.append(int((drawn != 120).any(axis=(1, 2)).sum()))
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.25)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 4), max_size=4),
    st.text(max_size=30),
)
def test_any_picture_any_people_any_text(size: tuple[int, int], corners: list[tuple[float, ...]], text: str) -> None:
    """Nothing that can be asked for raises or changes the size."""
    who = Who(text, 0.5, 0.4, "default", "1")
    tracks = [track_at(1, Box(min(a, c), min(b, d), max(a, c), max(b, d)), 0, who) for a, b, c, d in corners]
    assert draw_scene(np.zeros((*size, 3), np.uint8), tracks, text).shape == (*size, 3)
    assert no_signal_card(size[1], size[0], text, None).shape == (*size, 3)


def test_four_faces_on_full_hd_take_few_milliseconds() -> None:
    """Drawing keeps up with 25 pictures a second and more: 3 ms are the bound, with room for a busy machine."""
    pixels = grey(1920, 1080)
    names = (ADA, STRANGER_4, Who("张三", 0.66, 0.4, "default", "2"), None)
    tracks = [track_at(index, Box(100 + 400 * index, 300, 260 + 400 * index, 500), 0, who) for index, who in enumerate(names)]
    times = []
    for _ in range(40):
        begun = time.thread_time()
        draw_scene(pixels, tracks, "Front door 2026-01-01 00:00:00")
        times.append(time.thread_time() - begun)
    assert sorted(times)[len(times) // 2] < 0.003


def test_card() -> None:
    """The card is dark with text, tells since when, shows the time, and says when nothing has come at all."""
    plain = no_signal_card(640, 360, "", None)
    since = no_signal_card(640, 360, "", 1_700_000_000.0)
    clock = no_signal_card(640, 360, "", 1_700_000_000.0, now=1_700_000_060.0)
    named = no_signal_card(640, 360, "前门", 1_700_000_000.0, now=1_700_000_060.0)
    assert len({card.tobytes() for card in (plain, since, clock, named)}) == 4
    assert plain.shape == (360, 640, 3)
    assert np.median(plain) < 60
    assert (plain > 240).all(axis=2).sum() > 50
    assert (no_signal_card(640, 360, "", 0, now=1.0) != no_signal_card(640, 360, "", 0, now=2.0)).any()


def test_card_of_a_narrow_picture_keeps_its_text_inside() -> None:
    """Text that is wider than the picture is written smaller."""
    card = no_signal_card(120, 400, "A title that is far too long for it", 1_700_000_000.0, now=1_700_000_060.0)
    bright = cv2.inRange(card, (100, 100, 100), (255, 255, 255)).any(axis=0)
    assert bright.any()
    assert not bright[:1].any()
    assert not bright[-1:].any()


def test_local_time() -> None:
    """Times are of this machine, to the second."""
    assert local_time(1_700_000_000.9) == time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))

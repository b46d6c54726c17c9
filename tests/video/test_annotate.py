"""Pictures with faces drawn on them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.domain.face import Box, Detection, Face
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import PaintOptions
from face_server.video.annotate import JpegPainter, draw_faces
from face_server.video.images import ImageLimits, decode_image
from face_server.workers import Workers

NOTHING = PaintOptions(landmarks=False, scores=False, sizes=False)


def face_at(x1: float, y1: float, x2: float, y2: float) -> Face:
    """A face with landmarks at usual places in its box."""
    places = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
    landmarks = np.array([x1, y1], np.float32) + places * np.array([x2 - x1, y2 - y1], np.float32)
    return Face(Detection(Box(x1, y1, x2, y2), 0.87, landmarks))


@pytest.fixture
def canvas() -> Pixels:
    """A grey 640×480 picture."""
    return np.full((480, 640, 3), 120, np.uint8)


def changed(before: Pixels, after: Pixels) -> tuple[int, int, int, int]:
    """The rectangle x1, y1, x2, y2 in which two pictures differ."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_box_lies_where_the_face_is(canvas: Pixels) -> None:
    """Only the box is drawn when nothing else is asked for, at its coordinates, and the input is left alone."""
    before = canvas.copy()
    drawn = draw_faces(canvas, [face_at(100, 150, 200, 280)], NOTHING)
    np.testing.assert_array_equal(canvas, before)
    assert changed(before, drawn) == (100, 150, 200, 280)
    assert (drawn[160:270, 110:190] == 120).all()


def test_scale_brings_source_pixels_to_the_decoded_picture(canvas: Pixels) -> None:
    """A picture decoded at half its size gets the box of a full-size face at half its place."""
    drawn = draw_faces(canvas, [face_at(200, 300, 400, 560)], NOTHING, scale=(0.5, 0.5))
    np.testing.assert_array_equal(drawn, draw_faces(canvas, [face_at(100, 150, 200, 280)], NOTHING))


@pytest.mark.parametrize(
    ("options", "area"),
    [
        (PaintOptions(landmarks=True, scores=False, sizes=False), (110, 160, 190, 270)),
        (PaintOptions(landmarks=False, scores=True, sizes=False), (100, 120, 200, 149)),
        (PaintOptions(landmarks=False, scores=False, sizes=True), (100, 281, 200, 310)),
        (PaintOptions(landmarks=False, scores=False, sizes=False, names=("Ada",)), (100, 120, 200, 149)),
        (PaintOptions(landmarks=False, scores=False, sizes=False, footer="faces: 1"), (0, 450, 200, 480)),
    ],
)
def test_each_option_draws_in_its_place(canvas: Pixels, options: PaintOptions, area: tuple[int, int, int, int]) -> None:
    """Landmarks inside, score and name above, size below, footer at the bottom; and nowhere else."""
    face = face_at(100, 150, 200, 280)
    plain, drawn = draw_faces(canvas, [face], NOTHING), draw_faces(canvas, [face], options)
    x1, y1, x2, y2 = changed(plain, drawn)
    assert area[0] <= x1 < x2 <= area[2]
    assert area[1] <= y1 < y2 <= area[3]


def test_five_landmarks_have_five_colours(canvas: Pixels) -> None:
    """Each landmark has a colour of its own, at its place."""
    face = face_at(100, 150, 300, 400)
    drawn = draw_faces(canvas, [face], PaintOptions(scores=False, sizes=False))
    assert len({tuple(drawn[round(float(y)), round(float(x))]) for x, y in face.detection.landmarks} - {(120, 120, 120)}) == 5


def test_unnamed_faces_stand_out_among_named_ones(canvas: Pixels) -> None:
    """Once any name is given, a face without one has another colour; without names all are alike."""
    faces = [face_at(50, 100, 150, 200), face_at(300, 100, 400, 200)]
    named = draw_faces(canvas, faces, PaintOptions(landmarks=False, scores=False, sizes=False, names=("Ada",)))
    plain = draw_faces(canvas, faces, NOTHING)
    assert tuple(named[150, 50]) != tuple(named[150, 300])
    assert tuple(plain[150, 50]) == tuple(plain[150, 300]) == tuple(named[150, 50])


@pytest.mark.parametrize("name", ["张三", "東京タワー", "김철수", "Привет", "Ünal Çelik", "Ελένη"])
def test_names_of_many_scripts_render(canvas: Pixels, name: str) -> None:
    """Names in Chinese, Japanese, Korean, Cyrillic, Greek and accented Latin are not question marks."""
    face = face_at(100, 150, 300, 400)

    def titled(text: str) -> Pixels:
        return draw_faces(canvas, [face], PaintOptions(landmarks=False, scores=False, sizes=False, names=(text,)))[120:149]

    assert (titled(name) != titled("?" * len(name))).any()
    glyphs = {titled(character).tobytes() for character in set(name) - {" "}}
    assert len(glyphs) == len(set(name) - {" "})


@pytest.mark.parametrize("name", ["", " ", "\n\t\0", "\ud800", "🙂", "a" * 10_000, "line\nbreak", "\u202eright to left"])
def test_odd_names(canvas: Pixels, name: str) -> None:
    """No name breaks drawing or draws beyond one line above the box."""
    face = face_at(100, 150, 300, 400)
    drawn = draw_faces(canvas, [face], PaintOptions(landmarks=False, scores=False, sizes=False, names=(name,)))
    outside = np.ones(canvas.shape[:2], bool)
    outside[110:402, 95:640] = False
    if len(name) < 100:  # a longer one is moved to the left edge to show its start
        assert (drawn[outside] == 120).all()


@pytest.mark.parametrize("box", [(-50, -50, 60, 60), (600, 440, 700, 520), (-1e9, -1e9, 1e9, 1e9), (10, 0, 12, 2), (0, 478, 640, 480)])
def test_faces_at_the_edges(canvas: Pixels, box: tuple[float, float, float, float]) -> None:
    """Faces that reach beyond the picture, or fill it, keep their labels inside it."""
    drawn = draw_faces(canvas, [face_at(*box)], PaintOptions(names=("Ada",)))
    assert drawn.shape == canvas.shape
    white = (drawn > 230).all(axis=2)
    assert white.sum() > 20


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 4), max_size=4),
    st.text(max_size=30),
)
def test_any_picture_any_face_any_text(size: tuple[int, int], corners: list[tuple[float, ...]], text: str) -> None:
    """Pictures down to one pixel and boxes anywhere never raise."""
    faces = [face_at(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in corners]
    picture = np.zeros((*size, 3), np.uint8)
    assert draw_faces(picture, faces, PaintOptions(names=(text,), footer=text)).shape == picture.shape


def test_text_grows_with_the_picture(canvas: Pixels) -> None:
    """Lines and text of a large picture are larger, so that both are legible when the picture is shown smaller."""
    large = cv2.resize(canvas, (2560, 1920)).astype(np.uint8)
    options = PaintOptions(landmarks=False, scores=True, sizes=False)
    small_area = changed(canvas, draw_faces(canvas, [face_at(100, 150, 200, 280)], options))
    large_area = changed(large, draw_faces(large, [face_at(400, 600, 800, 1120)], options))
    assert 600 - large_area[1] > 2.5 * (150 - small_area[1])


def test_drawing_in_many_threads() -> None:
    """Pictures drawn at once in several threads are those drawn one after another."""
    names = ["张三", "林志玲", "東京タワー", "김철수", "Привет", "Zoë Ünal"]

    def draw(index: int) -> bytes:
        picture = np.zeros((200, 300 + index % 5, 3), np.uint8)
        return draw_faces(picture, [face_at(80, 80, 200, 180)], PaintOptions(names=(names[index % 6],), footer=names[index % 5])).tobytes()

    alone = [draw(index) for index in range(120)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(draw, range(120))) == alone


async def test_painter_answers_jpeg_at_decoded_size(workers: Workers, canvas: Pixels) -> None:
    """The painter scales source coordinates to the decoded pixels and answers a JPEG of that size."""
    image = Image(canvas, 1280, 960)
    data = await JpegPainter(workers).paint(image, [face_at(200, 300, 400, 560)], PaintOptions())
    painted = decode_image(data, ImageLimits())
    assert (painted.width, painted.height) == (640, 480)
    expected = draw_faces(canvas, [face_at(200, 300, 400, 560)], PaintOptions(), scale=(0.5, 0.5))
    assert np.abs(painted.pixels.astype(int) - expected).mean() < 1
    assert (expected != draw_faces(canvas, [face_at(100, 150, 200, 280)], PaintOptions())).any(), "the size text tells source pixels"

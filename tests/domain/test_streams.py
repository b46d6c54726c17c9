"""What a stream may be called, and where faces count."""

from __future__ import annotations

import pytest

from face_server.domain.streams import Point, Polygon, StreamSpec
from face_server.errors import InvalidInput


@pytest.mark.parametrize("name", ["1", "front door", "入口", "a.b", "..x", "x" * 64])
def test_ids(name: str) -> None:
    """Whatever people write, in any script."""
    assert StreamSpec(name, "rtsp://camera/1").id == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a%2fb", ".", "..", " ", "a\n", "a\u202eb", "a\u2028b"])
def test_ids_that_cannot_be_named_again(name: str) -> None:
    """What clients take out of paths, and what cannot be seen."""
    with pytest.raises(InvalidInput, match="stream id") as refused:
        StreamSpec(name, "rtsp://camera/1")
    assert refused.value.field == "id"


SQUARE = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))


@pytest.mark.parametrize(
    ("corners", "why"),
    [
        (((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)), "crosses itself"),
        (((0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 1.0)), "crosses itself"),
        ((*SQUARE, SQUARE[0]), "twice in a row"),
        (((0.1, 0.1), (0.1, 0.1), (0.9, 0.9)), "twice in a row"),
        (((0.1, 0.1), (0.2, 0.2), (0.3, 0.3)), "no area"),
        (SQUARE[:2], "3 to 64 points"),
        (((0.0, 0.0), (1.1, 0.0), (1.0, 1.0)), "0 to 1"),
        (((float("nan"), 0.0), (1.0, 0.0), (1.0, 1.0)), "0 to 1"),
    ],
)
def test_polygons_that_enclose_nothing_sensible(corners: tuple[Point, ...], why: str) -> None:
    """Each is refused with its own reason."""
    with pytest.raises(InvalidInput, match=why) as refused:
        Polygon(corners)
    assert refused.value.code == "invalid_polygon"


def test_what_a_polygon_contains() -> None:
    """Also where it is not convex."""
    corner = Polygon(((0.0, 0.0), (1.0, 0.0), (1.0, 0.2), (0.2, 0.2), (0.2, 1.0), (0.0, 1.0)))
    assert [corner.contains(*point) for point in ((0.1, 0.9), (0.9, 0.1), (0.9, 0.9))] == [True, True, False]

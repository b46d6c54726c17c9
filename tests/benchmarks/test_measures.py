"""The arithmetic of the accuracy figures, on cases that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lfw import Lfw
from benchmarks.measures import (
    Searches,
    accuracy_over_folds,
    best_threshold,
    roc_points,
    share_at,
    threshold_at_rate,
    unit,
    wilson_interval,
)
from benchmarks.report import percent, replace_section, table
from benchmarks.tail import measure_tail

similarities = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200).map(lambda values: np.array(values, np.float32))


@given(similarities, st.floats(0, 1))
def test_a_threshold_keeps_its_promise_and_is_the_lowest_that_does(impostors: np.ndarray, rate: float) -> None:
    """At most the wanted share reaches it; at the next lower similarity more would."""
    threshold = threshold_at_rate(impostors, rate)
    assert share_at(impostors, threshold) <= rate or threshold == impostors.min()
    lower = impostors[impostors < threshold]
    if len(lower):
        assert share_at(impostors, float(lower.max())) > rate


def test_ten_percent_of_ten_is_one() -> None:
    """Of 0.0 … 0.9 exactly one may reach the threshold for 10 %."""
    impostors = np.arange(10, dtype=np.float32) / 10
    threshold = threshold_at_rate(impostors, 0.1)
    assert 0.8 < threshold <= 0.9
    assert threshold_at_rate(impostors, 0.05) > 0.9
    assert threshold_at_rate(impostors, 1.0) == 0.0


def test_separable_pairs_have_a_perfect_threshold_between_them() -> None:
    """The best threshold lies in the gap, also when it is at either end."""
    values = np.array([0.1, 0.2, 0.6, 0.7], np.float32)
    assert 0.2 < best_threshold(values, np.array([False, False, True, True])) < 0.6
    assert best_threshold(values, np.array([True] * 4)) < 0.1
    assert best_threshold(values, np.array([False] * 4)) > 0.7


@given(st.lists(st.tuples(st.integers(-100, 100), st.booleans()), min_size=1, max_size=40, unique_by=lambda pair: pair[0]))
def test_no_other_threshold_is_more_accurate(pairs: list[tuple[int, bool]]) -> None:
    """Trying every gap finds nothing better."""
    values = np.array([value for value, _ in pairs], np.float32) / 100
    same = np.array([flag for _, flag in pairs])
    found = np.mean((values >= best_threshold(values, same)) == same)
    for candidate in (*(values - 0.005), 2.0):
        assert np.mean((values >= candidate) == same) <= found


def test_a_fold_is_judged_by_the_threshold_of_the_others() -> None:
    """A fold whose similarities are shifted pays for it: its own best threshold is not used."""
    values = np.array([0.1, 0.9, 0.5, 0.95], np.float32)
    same = np.array([False, True, False, True])
    accuracies, thresholds = accuracy_over_folds(values, same, np.array([0, 0, 1, 1]))
    assert thresholds == pytest.approx([0.725, 0.5])
    assert accuracies == [1.0, 0.5]


@pytest.fixture
def two_people() -> Searches:
    """Probes of person 0, of person 1, and of two strangers."""
    scores = np.array([[0.9, 0.1], [0.7, 0.6], [0.55, 0.2], [0.3, 0.35]], np.float32)
    return Searches(scores, np.array([0, 1, -1, -1]))


@pytest.mark.parametrize(
    ("threshold", "fpir", "fnir"), [(0.0, 1.0, 0.5), (0.35, 1.0, 0.5), (0.5, 0.5, 0.5), (0.56, 0.0, 0.5), (0.95, 0.0, 1.0)]
)
def test_open_set_errors_by_hand(two_people: Searches, threshold: float, fpir: float, fnir: float) -> None:
    """A stranger counts when anybody reaches the threshold, an acquaintance when it is not they."""
    assert two_people.fpir(threshold) == fpir
    assert two_people.fnir(threshold) == fnir
    assert two_people.rank_one == 0.5


def test_a_smaller_gallery_drops_the_probes_of_people_left_out(two_people: Searches) -> None:
    """Without person 0 their probe is gone, strangers stay, and person 1 wins."""
    smaller = two_people.among(np.array([1]))
    np.testing.assert_allclose(smaller.scores, [[0.6], [0.2], [0.35]], rtol=1e-6)
    assert smaller.mate.tolist() == [0, -1, -1]
    assert smaller.rank_one == 1.0


def test_the_tail_compares_different_people_only() -> None:
    """Three people on three axes, one of them twice: every comparison of different people is 0."""
    rows = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    tail = measure_tail(rows, rows, np.array([0, 0, 1, 2]))
    assert len(tail.impostors) == 4 * 4 - 6
    assert (tail.impostors == 0).all()


def test_levels_that_too_few_comparisons_reach_stay_out_of_the_table() -> None:
    """A calibration from a thousand comparisons ends where thirty reach it."""
    draw = np.random.default_rng(0)
    rows = unit(draw.normal(size=(40, 16)))
    calibration = measure_tail(rows, rows, np.arange(40)).calibration()
    assert calibration.log10_fmr == (-1.0, -1.5)


def test_roc_points_fall_with_the_rate() -> None:
    """A stricter rate accepts fewer pairs of one person, at a higher threshold."""
    draw = np.random.default_rng(0)
    points = roc_points(draw.normal(0.6, 0.1, 500).astype(np.float32), draw.normal(0, 0.2, 10000).astype(np.float32), [1e-3, 1e-2, 1e-1])
    assert [point[1] for point in points] == sorted(point[1] for point in points)
    assert [point[2] for point in points] == sorted((point[2] for point in points), reverse=True)


def test_missing_faces_become_zero_vectors() -> None:
    """NaN rows do not spread into products."""
    rows = unit(np.array([[np.nan, np.nan], [3, 4]]))
    assert rows[0].tolist() == [0, 0]
    assert rows[1].tolist() == pytest.approx([0.6, 0.8])


def test_the_interval_of_a_share() -> None:
    """Wilson's interval for 10 of 100 is 5.5 to 17.4 %, and stays within 0..1 at the ends."""
    assert wilson_interval(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=1e-3)
    assert wilson_interval(0.0, 50)[0] == 0.0
    assert wilson_interval(1.0, 50)[1] == pytest.approx(1.0)


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    """Only what lies between the markers changes; a page without them gets them at its end."""
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- a:begin -->\nold\n<!-- a:end -->\n\nlast\n")
    replace_section(page, "a", "new\n")
    assert page.read_text() == "# Title\n\n<!-- a:begin -->\nnew\n<!-- a:end -->\n\nlast\n"
    replace_section(page, "b", "more")
    assert page.read_text().endswith("last\n\n<!-- b:begin -->\nmore\n<!-- b:end -->\n")
    assert table(["x", "y"], [["1", percent(0.125)]]) == "| x | y |\n| --- | ---: |\n| 1 | 12.50 % |"


def test_the_protocol_keeps_strangers_out_of_the_gallery(shared: Path) -> None:
    """400 people enrol, their other listed pictures are probes, and nobody of them is a stranger; the halves are disjoint."""
    lfw = Lfw.read(shared / "data" / "lfw")
    assert (len(lfw.enrolled), len(lfw.probes), len(lfw.pairs), int(lfw.same.sum())) == (400, 1072, 1200, 600)
    assert len(np.unique(lfw.person[lfw.enrolled])) == 400
    assert not set(lfw.person[lfw.strangers]) & set(lfw.person[lfw.enrolled])
    assert not set(lfw.enrolled) & set(lfw.probes)
    assert all(len(set(lfw.half[lfw.person == person])) == 1 for person in np.unique(lfw.person))
    first, second = lfw.pairs[:, 0], lfw.pairs[:, 1]
    assert ((lfw.person[first] == lfw.person[second]) == lfw.same).all()
    part = Lfw.read(shared / "data" / "lfw", people=20, pairs=60)
    assert (len(part.enrolled), len(part.pairs)) == (20, 60)
    assert len(np.unique(part.person[part.strangers])) >= 20

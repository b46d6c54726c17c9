"""From similarities to a name or "unknown", and thresholds from impostor tails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.decision import Calibration, Verdict, decide
from face_server.domain.identity import Candidate, Identity

TAIL = Calibration((0.20, 0.30, 0.37, 0.42), (-1.0, -2.0, -3.0, -4.0))
scores = st.lists(st.floats(-1, 1), max_size=6).map(lambda values: sorted(values, reverse=True))
sizes = st.integers(1, 10**6)
rates = st.floats(1e-6, 0.5)


def _candidates(similarities: list[float]) -> list[Candidate]:
    return [Candidate(Identity(str(i), f"person {i}"), value, f"t{i}", value) for i, value in enumerate(similarities)]


@pytest.mark.parametrize(
    ("similarities", "threshold", "margin", "verdict"),
    [
        ([], 0.4, 0.0, Verdict.NO_CANDIDATE),
        ([0.39], 0.4, 0.0, Verdict.BELOW_THRESHOLD),
        ([0.4], 0.4, 0.0, Verdict.MATCH),
        ([0.6, 0.6], 0.4, 0.0, Verdict.MATCH),
        ([0.5], 0.4, 0.9, Verdict.MATCH),
        ([0.5, 0.25], 0.4, 0.25, Verdict.MATCH),
        ([0.5, 0.26], 0.4, 0.25, Verdict.WITHIN_MARGIN),
        ([0.3, 0.29], 0.4, 0.25, Verdict.BELOW_THRESHOLD),
    ],
)
def test_verdicts_at_the_edges(similarities: list[float], threshold: float, margin: float, verdict: Verdict) -> None:
    """Threshold and margin are inclusive; a lone candidate needs no margin; the threshold is judged first."""
    decision = decide(_candidates(similarities), threshold, margin)
    assert decision.verdict is verdict
    assert (decision.match is not None) == (verdict is Verdict.MATCH)


@given(scores, st.floats(-1, 1), st.floats(0, 1))
def test_a_name_is_always_earned(similarities: list[float], threshold: float, margin: float) -> None:
    """Whoever is named reaches the threshold, leads by the margin, and is the first of the candidates."""
    candidates = _candidates(similarities)
    decision = decide(candidates, threshold, margin)
    assert decision.candidates == tuple(candidates)
    assert (decision.threshold, decision.margin) == (threshold, margin)
    if decision.match is not None:
        assert decision.match is candidates[0]
        assert similarities[0] >= threshold
        assert len(similarities) == 1 or similarities[0] - similarities[1] >= margin


@given(scores, st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_stricter_limits_never_name_more_people(similarities: list[float], threshold: float, margin: float, more: float) -> None:
    """Raising the threshold or the margin can only turn a name into unknown."""
    strict = [decide(_candidates(similarities), threshold + more, margin), decide(_candidates(similarities), threshold, margin + more)]
    if any(decision.match for decision in strict):
        assert decide(_candidates(similarities), threshold, margin).match is not None


@pytest.mark.parametrize(("fmr", "similarity"), [(1e-1, 0.20), (1e-2, 0.30), (1e-3, 0.37), (1e-4, 0.42), (10**-2.5, 0.335)])
def test_thresholds_come_from_the_table(fmr: float, similarity: float) -> None:
    """At the measured points the table is exact, between them it is straight in log10 FMR."""
    assert TAIL.threshold_at_fmr(fmr) == pytest.approx(similarity)


def test_beyond_the_table_the_last_slope_goes_on() -> None:
    """Each further decade costs as much similarity as the last one, up to 1."""
    assert TAIL.threshold_at_fmr(1e-5) == pytest.approx(0.47)
    assert TAIL.threshold_at_fmr(1e-6) == pytest.approx(0.52)
    assert TAIL.threshold_at_fmr(1e-30) == 1.0
    assert TAIL.threshold_at_fmr(0.5) == pytest.approx(0.20)


@given(rates, rates)
def test_fewer_false_matches_need_a_higher_threshold(first: float, second: float) -> None:
    """The threshold never falls when the wanted rate falls."""
    low, high = sorted((first, second))
    assert TAIL.threshold_at_fmr(low) >= TAIL.threshold_at_fmr(high)


@given(rates, sizes, sizes, st.integers(1, 20))
def test_more_people_or_photos_need_a_higher_threshold(fpir: float, first: int, second: int, photos: int) -> None:
    """A larger gallery gives strangers more chances, and so do several photos of each person."""
    small, large = sorted((first, second))
    assert TAIL.threshold_at_fpir(fpir, large) >= TAIL.threshold_at_fpir(fpir, small)
    assert TAIL.threshold_at_fpir(fpir, small, small * photos) >= TAIL.threshold_at_fpir(fpir, small)


@given(st.floats(1e-5, 0.2), st.integers(1, 400))
def test_a_gallery_gets_the_rate_it_was_promised(fpir: float, people: int) -> None:
    """N independent comparisons at the threshold's FMR add up to the wanted FPIR."""
    each = 1 - (1 - fpir) ** (1 / people)
    assert TAIL.threshold_at_fpir(fpir, people) == pytest.approx(TAIL.threshold_at_fmr(each))
    assert 1 - (1 - each) ** people == pytest.approx(fpir)


def test_a_gallery_of_one_is_a_verification() -> None:
    """One person with one template: FPIR is FMR. An empty gallery counts as one person."""
    assert TAIL.threshold_at_fpir(1e-3, 1) == pytest.approx(TAIL.threshold_at_fmr(1e-3))
    assert TAIL.threshold_at_fpir(1e-3, 0, 0) == TAIL.threshold_at_fpir(1e-3, 1, 1)


def test_four_photos_a_person_count_as_twice_the_people() -> None:
    """Chances of strangers grow with the root of the photos of a person."""
    assert TAIL.threshold_at_fpir(0.01, 100, 400) == pytest.approx(TAIL.threshold_at_fpir(0.01, 200, 200))


@pytest.mark.parametrize(
    ("similarities", "levels"),
    [
        ((0.2,), (-1.0,)),
        ((0.2, 0.3), (-1.0,)),
        ((0.3, 0.2), (-1.0, -2.0)),
        ((0.2, 0.3), (-2.0, -1.0)),
        ((0.2, 0.2), (-1.0, -2.0)),
        ((), ()),
    ],
)
def test_a_table_that_does_not_fall_is_refused(similarities: tuple[float, ...], levels: tuple[float, ...]) -> None:
    """A calibration needs two or more points, rising in similarity and falling in FMR."""
    with pytest.raises(ValueError, match="two or more points"):
        Calibration(similarities, levels)

"""What is kept of a stranger, without any store."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import Identity, Template, TemplateRecord
from face_server.domain.strangers import Stranger, best_and_diverse

MODEL = ModelId("flat", "0" * 12, 1, 2)
TIMES = st.floats(0, 4e9)


def _shot(degrees: float, quality: float) -> TemplateRecord:
    angle = np.radians(degrees)
    return TemplateRecord(Template("t", "s", quality, 0.0), Embedding.from_values([np.cos(angle), np.sin(angle)], MODEL))


@given(st.integers(1, 10**9), TIMES, TIMES, st.integers(1, 10**6), st.integers(0, 10_000))
def test_a_stranger_survives_being_stored(number, first, stay, sightings, quality):
    """What an identity holds of a stranger gives the same stranger back, to the microsecond."""
    stranger = Stranger("s", number, f"Stranger {number}", first, first + stay, sightings, quality / 10_000)
    assert Stranger.of(stranger.identity()) == stranger


def test_damaged_bookkeeping_is_read_as_well_as_possible():
    """Missing, unreadable, infinite and contradictory values become those of the identity, or the least there is."""
    assert Stranger.of(Identity("s", "S", {}, 7.0)) == Stranger("s", 0, "S", 7.0, 7.0, 1, 0.0)
    damaged = {"number": "x", "first_seen_at": "inf", "last_seen_at": "3", "sightings": "-2", "quality": ""}
    assert Stranger.of(Identity("s", "S", damaged, 7.0)) == Stranger("s", 0, "S", 7.0, 7.0, 1, 0.0)


def test_the_best_shot_stays_and_after_it_what_differs():
    """Of a good shot, its near twin and a worse one from elsewhere, two places go to the good and the different one."""
    shots = [_shot(0, 0.5), _shot(2, 0.6), _shot(50, 0.3)]
    assert best_and_diverse(shots, 2) == [1, 2]
    assert best_and_diverse(shots, 1) == [1]
    assert sorted(best_and_diverse(shots, 9)) == [0, 1, 2]


@given(st.lists(st.tuples(st.floats(0, 360), st.floats(0, 1)), min_size=1, max_size=12), st.integers(1, 6))
def test_as_many_as_allowed_are_kept_each_once(shots, limit):
    """Whatever the shots, even equal ones of no quality, the number is right and the best is first."""
    kept = best_and_diverse([_shot(*shot) for shot in shots], limit)
    assert len(kept) == len(set(kept)) == min(limit, len(shots))
    assert max(shots[kept[0]][1], 1e-6) == max(max(quality, 1e-6) for _, quality in shots)

"""When a face is embedded, and what is believed of it afterwards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.alignment import ARCFACE_TEMPLATE
from face_server.domain.appearance import Answer, Belief, BeliefOptions, Shot, Verdict, prospect
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.events import Who
from face_server.domain.face import Box, Detection
from face_server.domain.quality import Pose, Quality, measure_quality

MODEL = ModelId("toy", "0" * 12, 1, 4)
BUDGET = 8
FACE = Detection(Box(0, 0, 112, 112), 0.9, ARCFACE_TEMPLATE)
NOBODY = Answer()


def shot(at: float, score: float = 0.1, yaw: float = 0.0) -> Shot:
    """A shot of a given quality."""
    quality = Quality(80, 0.3, 0.5, Pose(yaw, 0, 0), 0.9, score)
    return Shot(at, 1_700_000_000 + at, FACE, np.zeros((112, 112, 3), np.uint8), quality)


def embedding(norm: float = 7.0) -> Embedding:
    """Any embedding."""
    return Embedding(np.array([1, 0, 0, 0], np.float32), norm, MODEL)


def somebody(name: str, similarity: float = 0.45, *, firm: bool = False) -> Answer:
    """A vote for somebody."""
    return Answer(Who(name, similarity, 0.4, "default", name), firm=firm)


def learn(belief: Belief, *votes: tuple[float, Answer] | tuple[float, Answer, float]) -> list[str]:
    """Give a belief samples (at, answer, quality); returns who it believed in after each."""
    believed = []
    for at, answer, *score in votes:
        belief.learn(shot(at, *score), embedding(), answer, BUDGET)
        believed.append(belief.who.name if belief.who else belief.verdict.name)
    return believed


def watched(belief: Belief, scores: list[float], answer: Answer, *, fps: float = 5.0, budget: int = BUDGET) -> list[float]:
    """Show a belief one shot a frame; returns when it was embedded."""
    times = []
    for number, score in enumerate(scores):
        now = number / fps
        chosen = (
            belief.consider(shot(now, score), 1.0, budget) if belief.needs_shot(score, now, budget) or belief.welcomes_shot(score) else None
        )
        if chosen:
            times.append(now)
            belief.learn(chosen, embedding(), answer, budget)
    return times


def test_a_firm_answer_decides_at_once():
    """A walker is announced with the first shot if it leaves no doubt."""
    assert learn(Belief(), (0.0, somebody("Ada", 0.6, firm=True))) == ["Ada"]


def test_a_weak_answer_needs_a_second_sample_at_another_time():
    """Two frames in a row are one look; only a sample that is independent confirms."""
    assert learn(Belief(), (0.0, somebody("Ada")), (0.1, somebody("Ada")), (0.5, somebody("Ada"))) == ["UNDECIDED", "UNDECIDED", "Ada"]


def test_a_single_weak_answer_among_others_names_nobody():
    """One look-alike frame in a track of a stranger is outvoted."""
    votes = [(0.0, NOBODY), (0.4, somebody("Ada")), (0.8, NOBODY), (1.6, NOBODY)]

    assert learn(Belief(), *votes)[-1] == "UNKNOWN"


def test_samples_that_contradict_each_other_stay_undecided():
    """Votes for two people of equal weight name neither of them, however many there are."""
    votes = [(0.4 * number, somebody("Ada" if number % 2 else "Bob")) for number in range(8)]

    assert set(learn(Belief(), *votes)) == {"UNDECIDED"}


@given(st.lists(st.sampled_from(["Ada", "Bob", ""]), min_size=1, max_size=24))
def test_answers_never_go_back_and_forth(names: list[str]):
    """Whatever the votes of one quality, a name that was given up is not taken up again within seconds."""
    votes = [(0.4 * number, somebody(name) if name else NOBODY) for number, name in enumerate(names)]
    believed = [name for name, _ in itertools.groupby(learn(Belief(), *votes)) if name in ("Ada", "Bob")]

    assert len(believed) == len(set(believed))


def test_a_name_stands_against_a_few_bad_samples():
    """Who was recognised stays recognised while turning away."""
    votes = [(0.0, somebody("Ada"), 0.1), (0.5, somebody("Ada"), 0.1), (1.5, NOBODY, 0.1), (3.0, NOBODY, 0.1), (6.0, NOBODY, 0.1)]

    assert learn(Belief(), *votes)[1:] == ["Ada", "Ada", "Ada", "Ada"]


def test_a_name_falls_to_much_better_samples_that_match_nobody():
    """Two chance matches of poor shots do not outlive good shots of a stranger."""
    votes = [(0.0, somebody("Ada"), 0.05), (0.5, somebody("Ada"), 0.05), (1.5, NOBODY, 0.2), (3.0, NOBODY, 0.2)]

    assert learn(Belief(), *votes) == ["UNDECIDED", "Ada", "Ada", "UNKNOWN"]


def test_a_firm_name_is_not_lost_to_bad_samples():
    """Shots that match nobody say nothing against one that leaves no doubt."""
    votes = [(0.0, somebody("Ada", 0.7, firm=True)), *((float(at), NOBODY, 0.3) for at in range(1, 9))]

    assert set(learn(Belief(), *votes)) == {"Ada"}


def test_a_track_that_went_over_to_another_person_changes_its_name_once():
    """When the tracker follows somebody else, firm votes for them win after a while, and only once."""
    before = [(float(at), somebody("Ada", 0.7, firm=True)) for at in range(3)]
    after = [(20.0 + at, somebody("Bob", 0.7, firm=True)) for at in range(6)]

    believed = learn(Belief(), *before, *after)

    assert [name for name, _ in itertools.groupby(believed)] == ["Ada", "Bob"]


def test_another_name_is_checked_soon():
    """A sample that names somebody else is followed by the next one in a fraction of a second, not of a minute."""
    belief = Belief()
    learn(belief, *((0.5 * number, somebody("Ada")) for number in range(4)), (30.0, somebody("Bob")))

    assert belief.consider(shot(30.4), 1.0, BUDGET) is not None


def test_nobody_is_decided_by_two_good_samples():
    """A stranger is one within half a second."""
    assert learn(Belief(), (0.0, NOBODY), (0.4, NOBODY)) == ["UNDECIDED", "UNKNOWN"]


def test_nobody_is_decided_later_by_poor_samples():
    """Somebody far away may still come nearer."""
    assert learn(Belief(), (0.0, NOBODY, 0.03), (0.4, NOBODY, 0.03), (0.8, NOBODY, 0.03)) == ["UNDECIDED", "UNDECIDED", "UNKNOWN"]


def test_better_shots_can_still_name_the_unknown():
    """Who was too far away to be recognised is named on coming near."""
    votes = [(0.0, NOBODY, 0.06), (0.5, NOBODY, 0.06), (2.0, somebody("Ada"), 0.15), (2.4, somebody("Ada"), 0.2)]

    assert learn(Belief(), *votes) == ["UNDECIDED", "UNKNOWN", "UNKNOWN", "Ada"]


def test_a_spent_budget_decides_by_what_there_is():
    """With one embedding a track, one vote must do."""
    for answer, verdict in ((somebody("Ada"), Verdict.PERSON), (NOBODY, Verdict.UNKNOWN)):
        belief = Belief()
        belief.learn(shot(0.0), embedding(), answer, 1)
        assert belief.verdict is verdict


def test_the_first_good_shot_is_embedded_at_once():
    """Nothing is waited for when the first frame will do."""
    assert watched(Belief(), [0.1], NOBODY) == [0.0]


def test_a_poor_first_shot_waits_for_a_better_one():
    """The best shot of the first moments is embedded, even if it is not the last of them."""
    belief, options = Belief(), BeliefOptions()
    chosen = [belief.consider(shot(at, score), 1.0, BUDGET) for at, score in ((0.0, 0.01), (0.2, 0.03), (0.4, 0.02))]

    assert chosen[:2] == [None, None]
    assert chosen[2] is not None
    assert (chosen[2].at, chosen[2].quality.score) == (0.2, 0.03)
    assert options.first_wait_s <= 0.4


def test_a_face_that_does_not_change_is_embedded_ever_more_rarely():
    """A minute of somebody who sits still takes a handful of embeddings."""
    times = watched(Belief(), [0.1] * 300, NOBODY)

    assert len(times) <= 7
    assert all(later - sooner >= 4.0 for sooner, later in itertools.pairwise(times[1:]))


def test_an_approaching_face_is_embedded_on_clear_improvement_only():
    """A walker whose shots get better and better for ten seconds does not use up the budget at once."""
    times = watched(Belief(), [0.04 * 1.04**number for number in range(50)], NOBODY)

    assert 3 <= len(times) <= 6


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=120), st.integers(1, 10))
def test_the_budget_is_kept(scores: list[float], budget: int):
    """No track gets more embeddings than the rule allows."""
    assert len(watched(Belief(), scores, NOBODY, budget=budget)) <= budget


def test_another_pose_is_worth_a_sample():
    """A profile after frontal shots tells something new while nobody is recognised."""
    belief = Belief()
    learn(belief, (0.0, NOBODY), (0.4, NOBODY))

    assert belief.consider(shot(1.0, 0.08, yaw=5.0), 1.0, BUDGET) is None
    assert belief.consider(shot(1.2, 0.08, yaw=40.0), 1.0, BUDGET) is not None


def test_an_erased_person_is_believed_in_no_more():
    """When the collections answer anew that they know nobody, the name goes."""
    belief = Belief()
    learn(belief, (0.0, somebody("Ada", 0.7, firm=True)), (0.5, somebody("Ada", 0.7, firm=True)))
    belief.answer_again([NOBODY, NOBODY])

    assert (belief.verdict, belief.who) == (Verdict.UNKNOWN, None)


def test_an_unknown_who_was_enrolled_is_named_without_a_new_embedding():
    """The samples that are there are enough."""
    belief = Belief()
    learn(belief, (0.0, NOBODY), (0.5, NOBODY))
    belief.answer_again([somebody("Ada", 0.6, firm=True), somebody("Ada")])

    assert belief.who is not None
    assert belief.who.name == "Ada"
    assert belief.embedded == 2


def test_the_probe_is_what_a_change_shows_in():
    """The sample nearest to the person shows best whether they still are enrolled, the best shot whether somebody came."""
    named, unknown = Belief(), Belief()
    learn(named, (0.0, somebody("Ada", 0.7, firm=True), 0.1), (1.0, somebody("Ada", 0.5), 0.3))
    learn(unknown, (0.0, NOBODY, 0.1), (1.0, NOBODY, 0.3))
    probes = [named.probe(), unknown.probe()]

    assert [probe.at for probe in probes if probe] == [0.0, 1.0]


def test_the_portrait_shows_whom_the_name_is_of():
    """A better shot that matched nobody is no picture of the person."""
    belief = Belief()
    learn(belief, (0.0, somebody("Ada", 0.6, firm=True), 0.1), (1.0, NOBODY, 0.3))

    assert belief.portrait is not None
    assert belief.portrait.at == 0.0


def test_short_features_weigh_less():
    """A face that the embedder can hardly read is outvoted by one that it can."""
    belief = Belief()
    for at in (0.0, 0.5):
        belief.learn(shot(at, 0.1), embedding(8.0), somebody("Ada"), BUDGET)
    for at in (1.0, 1.5):
        belief.learn(shot(at, 0.15), embedding(4.0), NOBODY, BUDGET)

    assert belief.verdict is Verdict.PERSON


def test_samples_are_bounded():
    """However large the budget, memory is not."""
    belief = Belief(BeliefOptions(max_samples=5))
    for at in range(50):
        belief.learn(shot(float(at)), embedding(), NOBODY, 100)

    assert len(belief.samples) == 5
    assert belief.embedded == 50


@pytest.mark.parametrize("size_px", [20.0, 80.0, 400.0])
def test_the_prospect_bounds_the_quality(size_px: float):
    """What a detection promises is never exceeded by what its crop measures."""
    crop = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    measured = measure_quality(crop, FACE.landmarks, size_px=size_px, detection_score=FACE.score)

    assert measured.score <= prospect(FACE, size_px)

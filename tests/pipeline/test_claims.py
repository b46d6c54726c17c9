"""Two faces of one picture are never the same person, and a name does not change hands to and fro."""

from __future__ import annotations

import numpy as np

from face_server.domain.alignment import ARCFACE_TEMPLATE
from face_server.domain.appearance import Answer, Belief, Shot
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.events import Who
from face_server.domain.face import Box, Detection
from face_server.domain.quality import Pose, Quality
from face_server.domain.tracks import Track
from face_server.pipeline.claims import Claims

MODEL = ModelId("toy", "0" * 12, 1, 4)
FACE = Detection(Box(0, 0, 112, 112), 0.9, ARCFACE_TEMPLATE)
ADA = Who("Ada", 0.6, 0.4, "default", "ada")


def believing(score: float, who: Who = ADA) -> Belief:
    """A belief that a firm shot of this quality made."""
    belief = Belief()
    learn(belief, score, who)
    return belief


def learn(belief: Belief, score: float, who: Who = ADA) -> None:
    """One more firm shot."""
    quality = Quality(80, 0.3, 0.5, Pose(0, 0, 0), 0.9, score)
    shot = Shot(float(belief.embedded), 0.0, FACE, np.zeros((112, 112, 3), np.uint8), quality)
    belief.learn(shot, Embedding(np.array([1, 0, 0, 0], np.float32), 7.0, MODEL), Answer(who, firm=True), 8)


def track(number: int, missed: int = 0) -> Track:
    """A track."""
    return Track(number, FACE, 0.0, 1.0, 5, missed)


def bearers(claims: Claims, *in_view: tuple[Track, Belief]) -> list[int]:
    """The tracks that bear a name."""
    return [one.track.id for one in claims.settle(in_view) if one.who]


def test_the_track_with_more_evidence_bears_the_name():
    """Whatever the order; the other one stays undecided."""
    strong, weak = believing(0.3), believing(0.1)

    assert bearers(Claims(), (track(1), weak), (track(2), strong)) == [2]
    assert bearers(Claims(), (track(1), strong), (track(2), weak)) == [1]


def test_different_people_do_not_compete():
    """Each gets their own name."""
    bob = Who("Bob", 0.6, 0.4, "default", "bob")

    assert bearers(Claims(), (track(1), believing(0.1)), (track(2), believing(0.3, bob))) == [1, 2]


def test_a_little_more_evidence_does_not_take_a_name_away():
    """It takes half as much again."""
    claims, first, second = Claims(), believing(0.2), believing(0.18)
    assert bearers(claims, (track(1), first), (track(2), second)) == [1]

    learn(second, 0.1)
    assert bearers(claims, (track(1), first), (track(2), second)) == [1]

    learn(second, 0.1)
    assert bearers(claims, (track(1), first), (track(2), second)) == [2]


def test_a_face_in_view_comes_before_one_that_is_lost():
    """Who was lost and found again under another id has the name at once."""
    assert bearers(Claims(), (track(1, missed=3), believing(0.3)), (track(2), believing(0.1))) == [2]


def test_somebody_lost_for_a_moment_keeps_the_name():
    """As long as nobody else claims it."""
    assert bearers(Claims(), (track(1, missed=3), believing(0.3))) == [1]

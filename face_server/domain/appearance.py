"""What is believed of one track: its best shot, when a shot is worth an embedding, and who it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from face_server.domain.embedding import Embedding
from face_server.domain.events import Who
from face_server.domain.face import Detection
from face_server.domain.image import Pixels
from face_server.domain.quality import Quality, estimate_pose


@dataclass(frozen=True, slots=True)
class BeliefOptions:
    """When a face is embedded again, and what it takes to believe something.

    A first shot below ``quick_score`` waits ``first_wait_s`` for a better one. Samples count as
    independent from ``spacing_s`` on; while nothing is decided the wait doubles from there, once
    something is, from ``recheck_s``. A shot better by ``improvement`` is embedded sooner, or one of
    another pose (``pose_step_deg``) that is nearly as good; more is asked of it once somebody is
    named (``named_improvement``). Unknown needs two independent samples of ``good_score``, or
    ``patience_s`` since the first sample. A belief is given up for one with ``contrary`` times its
    weight; a name fades by half every ``half_life_s`` when another one contradicts it.
    """

    quick_score: float = 0.04
    first_wait_s: float = 0.35
    spacing_s: float = 0.35
    recheck_s: float = 4.0
    hurry_s: float = 0.15
    improvement: float = 1.25
    unknown_improvement: float = 1.5
    named_improvement: float = 2.0
    pose_step_deg: float = 25.0
    good_score: float = 0.06
    patience_s: float = 0.7
    contrary: float = 2.0
    half_life_s: float = 10.0
    max_samples: int = 24


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """The face of a track on one frame: its aligned crop (112×112×3 BGR), its measures, and when.

    ``at`` is monotonic, ``taken_at`` Unix seconds. ``detection`` is in the pixels of the frame.
    """

    at: float
    taken_at: float
    detection: Detection
    crop: Pixels
    quality: Quality


@dataclass(frozen=True, slots=True)
class Answer:
    """What the collections say of one embedding: somebody or nobody (None).

    ``firm`` says that the similarity is so high that it needs no second opinion.
    """

    who: Who | None = None
    firm: bool = False

    @property
    def key(self) -> str:
        """Equal for the same person; empty for nobody."""
        return self.who.key if self.who else ""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A shot that was embedded, and what the collections say of it."""

    shot: Shot
    embedding: Embedding
    answer: Answer

    @property
    def at(self) -> float:
        """When it was taken, monotonic seconds."""
        return self.shot.at

    @property
    def quality(self) -> Quality:
        """Of the shot."""
        return self.shot.quality

    @property
    def weight(self) -> float:
        """How much its vote counts: by quality, and by the length of the raw feature, which shrinks where there is no face to read."""
        return max(self.quality.score, 0.01) * self.embedding.norm


class Verdict(Enum):
    """What is decided of a track."""

    UNDECIDED = auto()
    UNKNOWN = auto()
    PERSON = auto()


def prospect(detection: Detection, size_px: float) -> float:
    """What ``Quality.score`` could be at most, from the detection alone; ``size_px`` as in ``Quality``."""
    pose = estimate_pose(detection.landmarks)
    frontality = max(0.0, 1.0 - abs(pose.yaw) / 90.0) * max(0.0, 1.0 - abs(pose.pitch) / 90.0)
    return min(1.0, size_px / 112.0) * frontality * detection.score


class Belief:
    """Samples of one track and what follows from them.

    A firm answer decides at once; others need a second, independent sample that agrees. Samples
    that contradict each other leave it undecided. What was decided is given up only for clearly
    stronger contrary evidence, so that it does not flap. ``stranger`` is for its user to fill in
    while the verdict is unknown, and ``tried`` to note up to which sample that was tried.
    """

    def __init__(self, options: BeliefOptions | None = None) -> None:
        self._options = options or BeliefOptions()
        self._shots_since = 0.0
        self._best_prospect = 0.0
        self._key = ""
        self._spent = False
        self.best: Shot | None = None
        self.samples: list[Sample] = []
        self.embedded = 0
        self.verdict = Verdict.UNDECIDED
        self.stranger: Who | None = None
        self.tried = 0

    @property
    def who(self) -> Who | None:
        """The answer: a person, a stranger, or None."""
        if self.verdict is Verdict.PERSON:
            return max((one.answer.who for one in self._votes(self._key) if one.answer.who), key=lambda who: who.similarity, default=None)
        return self.stranger if self.verdict is Verdict.UNKNOWN else None

    @property
    def portrait(self) -> Shot | None:
        """The best picture of whom the answer is: of the samples that speak for it, or of all while there is none."""
        votes = self._votes(self._key) or self.samples
        best = max(votes, key=lambda one: one.weight, default=None)
        return best.shot if best else self.best

    @property
    def support(self) -> float:
        """How much evidence there is for the answer; comparable between tracks of one model."""
        if self.verdict is Verdict.PERSON:
            return sum(one.weight * max(one.answer.who.similarity, 0.01) for one in self._votes(self._key) if one.answer.who)
        return self.stranger.similarity * max((one.weight for one in self.samples), default=0.0) if self.stranger else 0.0

    def needs_shot(self, promise: float, at: float, budget: int) -> bool:
        """Whether a shot of this ``prospect`` at ``at`` is wanted now: the first ones, a better one, or one that is due."""
        due = self.embedded < budget and bool(self.samples) and at - self.samples[-1].at >= self._wait_s()
        return self.best is None or not self.samples or due or promise >= 1.2 * self._best_prospect

    def welcomes_shot(self, promise: float) -> bool:
        """Whether a shot may be of use, too: sharpness is known only afterwards, and a still face may have been blurred before."""
        return promise >= 0.8 * self._best_prospect

    def consider(self, shot: Shot, promise: float, budget: int) -> Shot | None:
        """Take in a shot; returns the one to embed now, if any. ``budget`` is the most embeddings of a track."""
        if self.best is None:
            self._shots_since = shot.at
        if self.best is None or shot.quality.score > self.best.quality.score:
            self.best = shot
        self._best_prospect = max(self._best_prospect, promise)
        if self.embedded >= budget:
            return None
        if not self.samples:
            waited = shot.at - self._shots_since >= self._options.first_wait_s
            return self.best if waited or self.best.quality.score >= self._options.quick_score else None
        return shot if self._is_news(shot) else None

    def learn(self, shot: Shot, embedding: Embedding, answer: Answer, budget: int) -> None:
        """Add the sample that an embedded shot became. Once the ``budget`` is spent the samples there are must do."""
        self.embedded += 1
        self._spent = self.embedded >= budget
        self.samples.append(Sample(shot, embedding, answer))
        if len(self.samples) > self._options.max_samples:
            self.samples.remove(min(self.samples[:-1], key=lambda one: one.weight))
        self._settle()

    def probe(self) -> Sample | None:
        """The sample by which a change of the collections would show: the nearest to the person, else the best."""
        if self.verdict is Verdict.PERSON:
            return max(self._votes(self._key), key=lambda one: one.answer.who.similarity if one.answer.who else 0.0, default=None)
        return max(self.samples, key=lambda one: one.weight, default=None)

    def answer_again(self, answers: Sequence[Answer]) -> None:
        """Replace the answers of all samples: the collections or the thresholds have changed."""
        self.samples = [replace(sample, answer=answer) for sample, answer in zip(self.samples, answers, strict=True)]
        self._settle()

    def _is_news(self, shot: Shot) -> bool:
        options, passed = self._options, shot.at - self.samples[-1].at
        if passed >= self._wait_s():
            return True
        if passed < options.hurry_s:
            return False
        best = max(one.quality.score for one in self.samples)
        factor = {
            Verdict.UNDECIDED: options.improvement,
            Verdict.UNKNOWN: options.unknown_improvement,
            Verdict.PERSON: options.named_improvement,
        }[self.verdict]
        turned = all(abs(shot.quality.pose.yaw - one.quality.pose.yaw) >= options.pose_step_deg for one in self.samples)
        other_pose = turned and self.verdict is not Verdict.PERSON and shot.quality.score >= 0.6 * best and passed >= options.spacing_s
        return shot.quality.score >= factor * best or other_pose

    def _wait_s(self) -> float:
        """How long after the last sample another one is due in any case: as long as there have been samples, at least."""
        last = self.samples[-1]
        decided = self.verdict is not Verdict.UNDECIDED
        contradicted = self.verdict is Verdict.PERSON and last.answer.key != self._key
        if decided and contradicted and last.answer.who:
            return self._options.spacing_s
        return max(self._options.recheck_s if decided else self._options.spacing_s, last.at - self.samples[0].at)

    def _votes(self, key: str) -> list[Sample]:
        return [one for one in self.samples if one.answer.key == key]

    def _weight(self, key: str) -> float:
        return sum(one.weight for one in self._votes(key))

    def _fresh(self, key: str) -> float:
        now = self.samples[-1].at
        return sum(one.weight * math.exp2((one.at - now) / self._options.half_life_s) for one in self._votes(key))

    def _independent(self, votes: Sequence[Sample]) -> bool:
        return bool(votes) and votes[-1].at - votes[0].at >= self._options.spacing_s

    def _has_grounds(self, key: str) -> bool:
        votes = self._votes(key)
        return any(one.answer.firm for one in votes) or self._independent(votes) or (self._spent and bool(votes))

    def _settle(self) -> None:
        """Decide, or keep to what was decided."""
        if self.verdict is Verdict.PERSON and self._votes(self._key):
            self._doubt()
            return
        if self.verdict is Verdict.PERSON:
            self.verdict, self._key = Verdict.UNDECIDED, ""
        people = sorted({one.answer.key for one in self.samples} - {""}, key=self._weight, reverse=True)
        if people and self._may_name(people[0], people[1:]):
            self.verdict, self._key = Verdict.PERSON, people[0]
        elif self._may_give_up(bool(people)):
            self.verdict = Verdict.UNKNOWN

    def _may_name(self, key: str, others: Sequence[str]) -> bool:
        weight = self._weight(key)
        if not self._has_grounds(key) or weight <= self._options.contrary * max(map(self._weight, others), default=0.0):
            return False
        if any(one.answer.firm for one in self._votes(key)):
            return True
        return weight >= self._weight("") * (self._options.contrary if self.verdict is Verdict.UNKNOWN else 1.0)

    def _may_give_up(self, in_doubt: bool) -> bool:
        """Whether nobody is the answer: enough good samples that match nobody, and more of them than of anybody."""
        nobody = self._votes("")
        enough = self._independent(nobody) or (self._spent and bool(nobody))
        if not enough or (in_doubt and self._weight("") < sum(one.weight for one in self.samples) / 2):
            return False
        good = [one for one in nobody if one.quality.score >= self._options.good_score]
        return self._independent(good) or self._spent or self.samples[-1].at - self.samples[0].at >= self._options.patience_s

    def _doubt(self) -> None:
        """Give a name up for another that outweighs it, or for nobody."""
        others = {one.answer.key for one in self.samples} - {"", self._key}
        rival = max(others, key=self._fresh, default="")
        if rival and self._has_grounds(rival) and self._fresh(rival) >= self._options.contrary * self._fresh(self._key):
            self._key = rival
            return
        firm = any(one.answer.firm for one in self._votes(self._key))
        if not firm and self._independent(self._votes("")) and self._weight("") >= self._options.contrary * self._weight(self._key):
            self.verdict, self._key = Verdict.UNKNOWN, ""

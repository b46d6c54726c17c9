"""The eyes of one stream: frames in, tracks with names and events out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from face_server.domain.appearance import Belief, BeliefOptions
from face_server.domain.events import Event, Picture
from face_server.domain.frame import Frame
from face_server.domain.ports import Clock, Detector, Embedder, Gallery, ImageCodec
from face_server.domain.stream_ports import DrawScene
from face_server.domain.streams import StreamRules, StreamSpec
from face_server.domain.tracking import Tracker, TrackerOptions
from face_server.domain.tracks import Look, SeenTrack, Track
from face_server.domain.visits import VisitBook
from face_server.errors import ModelMismatch, Overloaded, Unavailable
from face_server.pipeline.announcing import Announcer, Portrait
from face_server.pipeline.claims import Claims
from face_server.pipeline.following import Chosen, Follower
from face_server.pipeline.matching import Matcher
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.stranger_matching import StrangerMatcher
from face_server.pipeline.strangers import StrangerBook
from face_server.workers import Workers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class WatchTools:
    """What watching works with.

    ``strangers`` is None where nobody unknown is remembered. ``min_score`` is that of the detector
    unless a rule says otherwise. Collections are searched again for everybody in view every ``review_s``, without new embeddings:
    so long do somebody enrolled or erased meanwhile keep their old label at most.
    """

    detector: Detector
    embedder: Embedder
    recognition: Recognition
    gallery: Gallery
    codec: ImageCodec
    workers: Workers
    clock: Clock
    draw: DrawScene
    strangers: StrangerBook | None = None
    min_score: float = 0.6
    review_s: float = 2.0
    beliefs: BeliefOptions = field(default_factory=BeliefOptions)
    tracking: TrackerOptions = field(default_factory=TrackerOptions)


@dataclass(frozen=True, slots=True)
class WatchCounts:
    """What a watcher has done since it was made: frames, faces found on them, tracks begun, embeddings computed."""

    frames: int = 0
    faces: int = 0
    tracks: int = 0
    embeddings: int = 0


class CameraWatcher:
    """Implements ``domain.stream_ports.Watcher``."""

    def __init__(self, spec: StreamSpec, tools: WatchTools) -> None:
        rules = spec.rules
        self._spec = spec
        self._tools = tools
        self._follower = Follower(tools.detector, tools.workers, Tracker(tools.tracking), tools.beliefs, tools.min_score)
        self._matcher = Matcher(tools.recognition, tools.gallery)
        self._strangers = StrangerMatcher(tools.strangers) if tools.strangers else None
        self._visits = VisitBook(rules.realert_s, rules.absence_s, rules.realert_on_return)
        self._announcer = Announcer(tools.codec, tools.draw, tools.workers, tools.clock)
        self._claims = Claims()
        self._portraits: dict[str, Portrait] = {}
        self._applied = spec
        self._reviewed = spec
        self._reviewed_at = -np.inf
        self._looked = (tools.clock.monotonic(), tools.clock.now())
        self._frames = self._faces = self._embeddings = 0
        self._away = ""

    @property
    def counts(self) -> WatchCounts:
        """What was done so far."""
        return WatchCounts(self._frames, self._faces, self._follower.started, self._embeddings)

    @property
    def problem(self) -> str:
        """Why recognition is incomplete at the moment (a collection that is missing, a gallery that is away), or empty."""
        return "; ".join(filter(None, (self._matcher.problem, self._away)))

    def change(self, spec: StreamSpec) -> None:
        """Watch under other rules and collections from the next frame on; tracks and visits go on."""
        self._spec = spec

    async def look(self, frame: Frame) -> Look:
        """Analyse one frame. Frames come in order of ``captured_at``, one at a time.

        While the gallery or the embedder is away or overloaded, tracks go on and nobody new is named.
        """
        self._looked = (self._tools.clock.monotonic(), frame.taken_at)
        spec = self._current_spec()
        if spec.rules.schedule is not None and not spec.rules.schedule.covers(frame.taken_at):
            return await self._departures(spec, frame.taken_at)
        following = await self._follower.follow(frame, spec.rules, detail=bool(spec.detail_url))
        self._frames += 1
        self._faces += following.faces
        in_view = [(track, self._follower.belief(track)) for track in following.tracks]
        try:
            await self._learn(spec, following.chosen)
            await self._review(spec, [belief for _, belief in in_view], frame.captured_at)
            await self._know_strangers(spec.rules, in_view)
            self._say_away("")
        except (ModelMismatch, Overloaded, Unavailable) as error:
            self._say_away(error.message)
        seen = self._claims.settle(in_view)
        return await self._report(spec, frame, seen)

    async def pass_time(self) -> Look:
        """Who left, by the time that passed since the last frame was taken."""
        looked_at, taken_at = self._looked
        return await self._departures(self._current_spec(), taken_at + self._tools.clock.monotonic() - looked_at)

    def _current_spec(self) -> StreamSpec:
        """What to watch by now. One frame is looked at under one spec, though it may change meanwhile."""
        spec = self._spec
        if spec is not self._applied:
            self._visits.change(spec.rules.realert_s, spec.rules.absence_s, spec.rules.realert_on_return)
            self._matcher.forget_problems()
            self._applied = spec
        return spec

    async def _learn(self, spec: StreamSpec, chosen: Sequence[Chosen]) -> None:
        """Embed the chosen shots in one call, and ask whose they are."""
        if not chosen:
            return
        embeddings = list(await self._tools.embedder.embed(np.stack([one.shot.crop for one in chosen])))
        self._embeddings += len(embeddings)
        answers = await self._matcher.answer(spec, embeddings)
        for one, embedding, answer in zip(chosen, embeddings, answers, strict=True):
            one.belief.learn(one.shot, embedding, answer, spec.rules.embed_budget)

    async def _review(self, spec: StreamSpec, beliefs: Sequence[Belief], at: float) -> None:
        """Ask again with embeddings that are there: people are enrolled, renamed and erased while they are in view."""
        everything = spec is not self._reviewed
        if not everything and at - self._reviewed_at < self._tools.review_s:
            return
        probed = [(belief, probe) for belief in beliefs if (probe := belief.probe())]
        answers = await self._matcher.answer(spec, [probe.embedding for _, probe in probed])
        doubtful = [belief for (belief, probe), answer in zip(probed, answers, strict=True) if everything or answer != probe.answer]
        again = iter(await self._matcher.answer(spec, [one.embedding for belief in doubtful for one in belief.samples]))
        for belief in doubtful:
            belief.answer_again([next(again) for _ in belief.samples])
        if self._strangers:
            await self._strangers.review(beliefs, self._visits)
        # Last, so that a review that failed is made up for at once.
        self._reviewed, self._reviewed_at = spec, at

    async def _know_strangers(self, rules: StreamRules, in_view: Sequence[tuple[Track, Belief]]) -> None:
        if not (self._strangers and rules.strangers):
            for _, belief in in_view:
                belief.stranger = None
            return
        await self._strangers.settle([belief for track, belief in in_view if not track.missed], self._visits)

    async def _report(self, spec: StreamSpec, frame: Frame, seen: Sequence[SeenTrack]) -> Look:
        """Tell the visits who is here, and announce whom they say."""
        whom: set[int] = set()
        for one in seen:
            if one.who is None or one.track.missed:
                continue
            if self._visits.seen(one.who, frame.taken_at):
                whom.add(one.track.id)
                if self._strangers and one.who.stranger_id:
                    await self._strangers.seen(one.who, frame.taken_at)
            self._keep_portrait(one, frame)
        gone = await self._departures(spec, frame.taken_at)
        if not whom:
            return Look(tuple(seen), gone.events, gone.pictures)
        shots = {one.track.id: shot for one in seen if (shot := self._follower.belief(one.track).portrait)}
        events, pictures = await self._announcer.arrived(spec, frame, seen, whom, shots)
        return Look(tuple(seen), (*gone.events, *events), (*gone.pictures, *pictures))

    def _keep_portrait(self, seen: SeenTrack, frame: Frame) -> None:
        shot = self._follower.belief(seen.track).portrait
        if shot is None or seen.who is None:
            return
        kept = self._portraits.get(seen.who.key)
        if kept is None or shot.quality.score > kept.shot.quality.score:
            self._portraits[seen.who.key] = Portrait(shot, seen.track.id, (frame.width, frame.height))

    async def _departures(self, spec: StreamSpec, now: float) -> Look:
        """Who left until ``now`` (Unix seconds)."""
        events: list[Event] = []
        pictures: list[Picture] = []
        for visit in self._visits.pass_time(now):
            if self._strangers and visit.who.stranger_id:
                await self._strangers.seen(visit.who, visit.last_at)
            event, made = await self._announcer.left(spec, visit, self._portraits.pop(visit.who.key, None))
            events.append(event)
            pictures += made
        here = {visit.who.key for visit in self._visits.open_visits()}
        self._portraits = {key: portrait for key, portrait in self._portraits.items() if key in here}
        return Look((), tuple(events), tuple(pictures))

    def _say_away(self, sentence: str) -> None:
        if sentence and sentence != self._away:
            _log.warning("stream %s: nobody new is recognised: %s", self._spec.id, sentence)
        self._away = sentence

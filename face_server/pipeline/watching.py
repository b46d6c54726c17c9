"""The eyes of one stream: frames in, tracks with names and events out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from face_server.domain.appearance import Belief, BeliefOptions
from face_server.domain.events import Event, Picture, Who
from face_server.domain.frame import Frame
from face_server.domain.ports import Clock, Detector, Embedder, Gallery, ImageCodec
from face_server.domain.stream_ports import DrawScene
from face_server.domain.streams import StreamRules, StreamSpec
from face_server.domain.tracking import Tracker, TrackerOptions
from face_server.domain.tracks import Look, SeenTrack, Track
from face_server.domain.visits import Visit, VisitBook
from face_server.errors import ModelMismatch, Overloaded, Unavailable
from face_server.pipeline.announcing import Announcer, Portrait
from face_server.pipeline.claims import Claims
from face_server.pipeline.following import Chosen, Follower
from face_server.pipeline.matching import Matcher
from face_server.pipeline.recognition import Recognition
from face_server.pipeline.stranger_matching import StrangerMatcher
from face_server.pipeline.strangers import StrangerBook
from face_server.workers import Workers

Recall = Callable[[str], Awaitable[Sequence[Event]]]
"""The latest arrivals and departures on a stream, oldest first, as far as they are stored."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class WatchTools:
    """What watching works with.

    ``strangers`` is None where nobody unknown is remembered. ``recall`` lets watching go on where it was
    broken off: who was announced lately is not announced again, and who is gone by now leaves. ``min_score`` is that of the detector
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
    recall: Recall | None = None
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
        # Decided but not handed over yet. A look may be broken off at any await, or fail: the next one says what it owes.
        self._unsaid: list[Event] = []
        self._applied = spec
        self._reviewed = spec
        self._reviewed_at = -np.inf
        self._looked = (tools.clock.monotonic(), tools.clock.now())
        self._frames = self._faces = self._embeddings = 0
        self._away = ""
        self._recalled = tools.recall is None

    @property
    def counts(self) -> WatchCounts:
        """What was done so far."""
        return WatchCounts(self._frames, self._faces, self._follower.started, self._embeddings)

    @property
    def problem(self) -> str:
        """Why recognition is incomplete at the moment (a collection that is missing, a gallery that is away), or empty."""
        return "; ".join(filter(None, (self._matcher.problem, self._strangers.problem if self._strangers else "", self._away)))

    def change(self, spec: StreamSpec) -> None:
        """Watch under other rules and collections from the next frame on; tracks and visits go on."""
        self._spec = spec

    async def look(self, frame: Frame) -> Look:
        """Analyse one frame. Frames come in order of ``captured_at``, one at a time.

        While the gallery or the embedder is away or overloaded, tracks go on and nobody new is named.
        """
        self._looked = (self._tools.clock.monotonic(), frame.taken_at)
        await self._recall()
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
        await self._recall()
        looked_at, taken_at = self._looked
        return await self._departures(self._current_spec(), taken_at + self._tools.clock.monotonic() - looked_at)

    async def _recall(self) -> None:
        """Take up what was announced before these eyes opened, once. Who cannot be asked is not waited for."""
        if self._recalled or self._tools.recall is None:
            return
        try:
            self._visits.recall(await self._tools.recall(self._spec.id))
        except (Overloaded, Unavailable) as error:
            _log.warning("stream %s: people may be announced again: %s", self._spec.id, error.message)
        self._recalled = True

    def leave(self) -> Look:
        """See ``Watcher.leave``."""
        self._depart(self._spec, self._visits.end())
        return self._say((), ())

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
        before = self._strangers.problem
        await self._strangers.settle([belief for track, belief in in_view if not track.missed], self._visits)
        if self._strangers.problem and not before:
            _log.warning("stream %s: %s", self._spec.id, self._strangers.problem)

    async def _report(self, spec: StreamSpec, frame: Frame, seen: Sequence[SeenTrack]) -> Look:
        """Tell the visits who is here, and announce whom they say."""
        whom: set[int] = set()
        for one in seen:
            if one.who is None or one.track.missed:
                continue
            if self._visits.seen(one.who, frame.taken_at):
                whom.add(one.track.id)
            self._keep_portrait(one, frame)
        gone = self._end_visits(spec, frame.taken_at)
        arrived = self._announcer.arrived(spec, frame, seen, whom)
        self._unsaid += arrived
        # From here on everything may fail or be broken off.
        await self._note_strangers([(one.who, frame.taken_at) for one in arrived if one.who])
        made = await self._picture_departures(gone)
        shots = {one.track.id: shot for one in seen if (shot := self._follower.belief(one.track).portrait)}
        events, pictures = await self._announcer.with_scene(arrived, spec, frame, seen, shots)
        return self._say([*made.events, *events], [*made.pictures, *pictures], seen)

    def _keep_portrait(self, seen: SeenTrack, frame: Frame) -> None:
        shot = self._follower.belief(seen.track).portrait
        if shot is None or seen.who is None:
            return
        kept = self._portraits.get(seen.who.key)
        if kept is None or shot.quality.score > kept.shot.quality.score:
            self._portraits[seen.who.key] = Portrait(shot, seen.track.id, (frame.width, frame.height))

    async def _departures(self, spec: StreamSpec, now: float) -> Look:
        """Who left until ``now`` (Unix seconds)."""
        made = await self._picture_departures(self._end_visits(spec, now))
        return self._say(made.events, made.pictures)

    def _end_visits(self, spec: StreamSpec, now: float) -> list[tuple[Event, Portrait | None]]:
        """The visits that are over at ``now``, as events that must be said, and their portraits."""
        return self._depart(spec, self._visits.pass_time(now))

    def _depart(self, spec: StreamSpec, visits: Sequence[Visit]) -> list[tuple[Event, Portrait | None]]:
        portraits = [self._portraits.pop(visit.who.key, None) for visit in visits]
        gone = [(self._announcer.left(spec, visit, portrait), portrait) for visit, portrait in zip(visits, portraits, strict=True)]
        self._unsaid += [event for event, _ in gone]
        here = {visit.who.key for visit in self._visits.open_visits()}
        self._portraits = {key: portrait for key, portrait in self._portraits.items() if key in here}
        return gone

    async def _picture_departures(self, gone: Sequence[tuple[Event, Portrait | None]]) -> Look:
        await self._note_strangers([(event.who, event.ended_at) for event, _ in gone if event.who])
        made = [await self._announcer.with_portrait(event, portrait) for event, portrait in gone]
        return Look((), tuple(event for event, _ in made), tuple(picture for _, pictures in made for picture in pictures))

    async def _note_strangers(self, seen: Sequence[tuple[Who, float]]) -> None:
        for who, at in seen:
            if self._strangers and who.stranger_id:
                await self._strangers.seen(who, at)

    def _say(self, events: Sequence[Event], pictures: Sequence[Picture], seen: Sequence[SeenTrack] = ()) -> Look:
        """All that must be said, in the order in which it was decided, with the pictures that could be made of it."""
        complete = {event.id: event for event in events}
        said, self._unsaid = tuple(complete.get(event.id, event) for event in self._unsaid), []
        return Look(tuple(seen), said, tuple(pictures))

    def _say_away(self, sentence: str) -> None:
        if sentence and sentence != self._away:
            _log.warning("stream %s: nobody new is recognised: %s", self._spec.id, sentence)
        self._away = sentence

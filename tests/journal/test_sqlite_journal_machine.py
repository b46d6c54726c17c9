"""Random histories of a real SQLite journal's outbox against a plain model of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from face_server.clock import FakeClock
from face_server.domain.events import Event, EventKind, Lane
from face_server.domain.streams import StreamSpec
from face_server.errors import Conflict, NotFound
from face_server.journal.options import JournalOptions
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal

STREAMS = ("door", "gate")
SINKS = ("hook", "mqtt")
OPTIONS = JournalOptions(max_pending_per_lane=4, max_dead_letters=6)
RARELY = st.sampled_from([False] * 7 + [True])
CHOICES = st.lists(st.integers(0, 9), max_size=4)


@dataclass(frozen=True)
class Waiting:
    """A delivery as it should be. ``order`` is its place among all that were ever queued."""

    order: int
    lane: Lane
    event_id: str
    attempts: int = 0


class Model:
    """What an outbox holds: events in order, deliveries in order, dead letters in order."""

    def __init__(self) -> None:
        self.streams: list[str] = []
        self.events: list[str] = []
        self.waiting: list[Waiting] = []
        self.dead: list[Waiting] = []
        self.order = itertools.count()

    def lane(self, lane: Lane) -> list[Waiting]:
        """What waits there."""
        return [one for one in self.waiting if one.lane == lane]

    def queue(self, lanes: dict[Lane, list[str]]) -> None:
        """Put events at the end of lanes; what is too much dies, the oldest first."""
        for lane, event_ids in lanes.items():
            self.waiting += [Waiting(next(self.order), lane, event_id) for event_id in event_ids]
            excess = len(self.lane(lane)) - OPTIONS.max_pending_per_lane
            self.bury(self.lane(lane)[: max(0, excess)])

    def bury(self, those: list[Waiting]) -> None:
        """Give up."""
        self.waiting = [one for one in self.waiting if one not in those]
        self.dead = (self.dead + sorted(those, key=lambda one: one.order))[-OPTIONS.max_dead_letters :]


class OutboxMachine(RuleBasedStateMachine):
    """Does the same to a journal and to the model, restarts now and then, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.path = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "journal.sqlite"
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.model = Model()
        self.numbers = itertools.count()
        self.journal = self.opened()

    def opened(self) -> SqliteJournal:
        """The journal of this history."""
        return self.runner.run(SqliteJournal.open(self.path, FakeClock(), Sealer.from_key(bytes(32)), OPTIONS))

    @rule(stream=st.sampled_from(STREAMS))
    def add_stream(self, stream: str) -> None:
        """Both add a stream, or neither."""
        adding = self.journal.add_stream(StreamSpec(stream, "rtsp://cam"))
        if stream in self.model.streams:
            with pytest.raises(Conflict):
                self.runner.run(adding)
        else:
            self.runner.run(adding)
            self.model.streams.append(stream)

    @rule(stream=st.sampled_from(STREAMS), really=RARELY)
    def remove_stream(self, stream: str, really: bool) -> None:
        """What waits for its sinks dies."""
        if not really:
            return
        if stream not in self.model.streams:
            with pytest.raises(NotFound):
                self.runner.run(self.journal.remove_stream(stream))
            return
        self.runner.run(self.journal.remove_stream(stream))
        self.model.streams.remove(stream)
        self.model.bury([one for one in self.model.waiting if one.lane.stream_id == stream])

    @rule(made=st.lists(st.tuples(st.sampled_from(STREAMS), st.lists(st.sampled_from(SINKS), max_size=3), RARELY), min_size=1, max_size=4))
    def append(self, made: list[tuple[str, list[str], bool]]) -> None:
        """New events, and now and then one that is there already."""
        events, sinks, lanes = [], {}, {}
        for stream, keys, repeated in made:
            if repeated and self.model.events:
                known = self.model.events[-1]
                events.append(Event(known, EventKind.PERSON_SEEN, stream, 0, 0, 0))
                sinks.setdefault(known, keys)
                continue
            name = f"e{next(self.numbers)}"
            events.append(Event(name, EventKind.PERSON_SEEN, stream, 0, 0, 0))
            sinks[name] = keys
            self.model.events.append(name)
            for key in dict.fromkeys(keys):
                lanes.setdefault(Lane(stream, key), []).append(name)
        stored = self.runner.run(self.journal.append(events, [], sinks))
        assert [one.id for one in stored] == [one.id for one in events]
        self.model.queue(lanes)

    @rule(
        lane=st.builds(Lane, st.sampled_from(STREAMS), st.sampled_from(SINKS)),
        place=st.sampled_from([0, 0, 0, 1, 3]),
        how=st.sampled_from(["delivered", "delivered", "failed", "bury"]),
    )
    def deal(self, lane: Lane, place: int, how: str) -> None:
        """A delivery, mostly the first of its lane, is taken out, failed or given up; afterwards it is not there to take."""
        expected = self.model.lane(lane)
        if place >= len(expected):
            return
        chosen, delivery = expected[place], self.runner.run(self.journal.pending(lane))[place]
        if how == "delivered":
            self.runner.run(self.journal.delivered(delivery.id))
            self.model.waiting.remove(chosen)
        elif how == "failed":
            self.runner.run(self.journal.failed(delivery.id, "no"))
            self.model.waiting[self.model.waiting.index(chosen)] = replace(chosen, attempts=chosen.attempts + 1)
            return
        else:
            self.runner.run(self.journal.bury(delivery.id, "no"))
            self.model.bury([chosen])
        with pytest.raises(NotFound):
            self.runner.run(self.journal.delivered(delivery.id))

    @rule(choice=CHOICES)
    def replay(self, choice: list[int]) -> None:
        """Some dead letters are queued again, in order of their events, unless one has nowhere to go."""
        letters = self.runner.run(self.journal.dead_letters())
        places = {one for one in choice if one < len(letters)}
        chosen = [self.model.dead[one] for one in places]
        replaying = self.journal.replay([letters[one].id for one in places])
        if any(one.lane.stream_id not in self.model.streams for one in chosen):
            with pytest.raises(Conflict):
                self.runner.run(replaying)
            return
        assert self.runner.run(replaying) == len(chosen)
        self.model.dead = [one for one in self.model.dead if one not in chosen]
        lanes: dict[Lane, list[str]] = {}
        for one in sorted(chosen, key=lambda one: (self.model.events.index(one.event_id), self.dead_place(letters, one))):
            lanes.setdefault(one.lane, []).append(one.event_id)
        self.model.queue(lanes)

    @staticmethod
    def dead_place(letters: list, one: Waiting) -> int:
        """Where among the letters this one is."""
        return next(n for n, letter in enumerate(letters) if (letter.lane, letter.event.id) == (one.lane, one.event_id))

    @rule(choice=CHOICES)
    def discard(self, choice: list[int]) -> None:
        """Some dead letters are erased."""
        letters = self.runner.run(self.journal.dead_letters())
        places = {one for one in choice if one < len(letters)}
        assert self.runner.run(self.journal.discard([letters[one].id for one in places])) == len(places)
        self.model.dead = [one for number, one in enumerate(self.model.dead) if number not in places]

    @rule(really=RARELY)
    def restart(self, really: bool) -> None:
        """Close and open again."""
        if really:
            self.runner.run(self.journal.close())
            self.journal = self.opened()

    @invariant()
    def same_contents(self) -> None:
        """Journal and model hold the same, in the same order."""
        run, model = self.runner.run, self.model
        assert [one.id for one in run(self.journal.streams())] == model.streams
        assert [one.id for one in run(self.journal.events(limit=1_000))] == model.events
        every = [Lane(stream, sink) for stream in STREAMS for sink in SINKS]
        assert set(run(self.journal.lanes())) == {one.lane for one in model.waiting}
        for lane in every:
            deliveries = run(self.journal.pending(lane))
            assert [(one.event.id, one.attempts) for one in deliveries] == [(one.event_id, one.attempts) for one in model.lane(lane)]
            assert [one.id for one in deliveries] == sorted({one.id for one in deliveries})
        letters = run(self.journal.dead_letters())
        assert [(one.lane, one.event.id, one.attempts) for one in letters] == [(one.lane, one.event_id, one.attempts) for one in model.dead]

    def teardown(self) -> None:
        """Close what is open."""
        self.runner.run(self.journal.close())
        self.stack.close()


class TestOutboxMachine(OutboxMachine.TestCase):
    """At random, but the same each run."""

    settings = settings(
        max_examples=40,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )

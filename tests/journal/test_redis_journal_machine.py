"""Random histories of two replicas that deliver from one Redis, and crash."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from face_server.clock import FakeClock
from face_server.domain.events import Lane
from face_server.errors import NotFound
from face_server.journal.redis import RedisJournal
from tests.journal.redis_parts import Site, abandon, event, site, spec
from tests.journal.test_sqlite_journal_machine import OPTIONS, OutboxMachine

LANES = [Lane(stream, sink) for stream in ("door", "gate") for sink in ("hook", "mqtt")]
REPLICA = st.integers(0, 1)
A_LANE = st.sampled_from(LANES)
BOUNDS = {"max_pending_per_lane": OPTIONS.max_pending_per_lane, "max_dead_letters": OPTIONS.max_dead_letters}


class SharedOutboxMachine(OutboxMachine):
    """The machine of the embedded journal, on two replicas in turn."""

    def __init__(self) -> None:
        self.started = contextlib.AsyncExitStack()
        self.shared: Site | None = None
        super().__init__()

    def opened(self) -> RedisJournal:  # type: ignore[override]  # another journal
        """A new replica of the Redis of this history."""
        if self.shared is None:
            folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
            self.shared = self.runner.run(self.started.enter_async_context(site(folder, "--appendfsync", "no")))
        self.others = [self.runner.run(self.shared.replica(FakeClock(), bounds=BOUNDS)) for _ in range(2)]
        return self.others[0]  # type: ignore[return-value]

    @rule()
    def go_to_the_other(self) -> None:
        """What follows is done by the other replica."""
        self.journal = self.others[self.journal is self.others[0]]  # type: ignore[assignment]

    def teardown(self) -> None:
        """Close what is open."""
        self.runner.run(self.started.aclose())
        super().teardown()


class DeliveringMachine(RuleBasedStateMachine):
    """Two replicas deliver lanes page by page, as ``streams.lanes`` does; either may vanish or stand still at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.started = contextlib.AsyncExitStack()
        self.shared: Site = self.runner.run(self.started.enter_async_context(site(folder, "--appendfsync", "no")))
        self.clocks: list[FakeClock] = [FakeClock(), FakeClock()]
        self.replicas = [self.runner.run(self.shared.replica(clock)) for clock in self.clocks]
        self.numbers = itertools.count()
        self.queued: dict[Lane, list[str]] = {lane: [] for lane in LANES}
        self.arrived: dict[Lane, list[str]] = {lane: [] for lane in LANES}
        self.settled: dict[Lane, list[int]] = {lane: [] for lane in LANES}
        for stream in ("door", "gate"):
            self.runner.run(self.replicas[0].add_stream(spec(stream)))

    @rule(which=REPLICA, lanes=st.lists(A_LANE, min_size=1, max_size=4))
    def append(self, which: int, lanes: list[Lane]) -> None:
        """Events, each for one lane, in one call."""
        made = {f"e{next(self.numbers)}": lane for lane in lanes}
        sinks = {name: [lane.sink_key] for name, lane in made.items()}
        self.runner.run(self.replicas[which].append([event(name, lane.stream_id) for name, lane in made.items()], [], sinks))
        for name, lane in made.items():
            self.queued[lane].append(name)

    @rule(which=REPLICA, lane=A_LANE, many=st.integers(1, 3), ends=st.sampled_from(["noted", "noted", "failed", "unnoted", "buried"]))
    def deliver(self, which: int, lane: Lane, many: int, ends: str) -> None:
        """Some of a lane arrive, if it is this replica's; the last may fail, be given up, or arrive and not be noted any more."""
        run, journal = self.runner.run, self.replicas[which]
        if not run(journal.claim(lane)):
            return
        page = run(journal.pending(lane, limit=many))
        for one in page:
            if not run(journal.claim(lane)):
                return
            how = ends if one is page[-1] else "noted"
            if how == "failed":
                run(journal.failed(one.id, "no"))
                return
            if how != "buried":
                self.arrived[lane].append(one.event.id)
            if how == "unnoted":
                return
            run(journal.bury(one.id, "no") if how == "buried" else journal.delivered(one.id))
            self.settled[lane].append(one.id)
        if not page:
            run(journal.release(lane))

    @rule(which=REPLICA, lane=A_LANE)
    def stand_still(self, which: int, lane: Lane) -> None:
        """A replica stands still in the middle of a delivery; the other takes the lane; then the first goes on."""
        run, still, other = self.runner.run, self.replicas[which], self.replicas[1 - which]
        if not run(still.claim(lane)) or not (page := run(still.pending(lane, limit=1))):
            return
        abandon(self.shared, lane)
        assert run(other.claim(lane))
        for settle in (still.delivered(page[0].id), still.failed(page[0].id, "no"), still.bury(page[0].id, "no")):
            with contextlib.suppress(NotFound):
                run(settle)
                raise AssertionError("a former owner settled a delivery")
        run(self.clocks[which].advance(3.1))
        assert not run(still.claim(lane))

    @rule(which=REPLICA)
    def crash(self, which: int) -> None:
        """A replica vanishes with its claims, which run out; another comes in its place."""
        self.runner.run(self.replicas[which]._session.connection.close())
        for lane in LANES:
            abandon(self.shared, lane)
        self.clocks = [FakeClock() if number == which else clock for number, clock in enumerate(self.clocks)]
        self.replicas[which] = self.runner.run(self.shared.replica(self.clocks[which]))
        # The one that lives renews what is its own.
        self.runner.run(self.clocks[1 - which].advance(3.1))

    @rule(which=REPLICA, choice=st.lists(st.integers(0, 5), max_size=3))
    def replay(self, which: int, choice: list[int]) -> None:
        """Dead letters join the end of their lanes."""
        letters = self.runner.run(self.replicas[which].dead_letters())
        chosen = sorted((letters[one] for one in set(choice) if one < len(letters)), key=lambda one: (one.event.cursor, one.id))
        self.runner.run(self.replicas[which].replay([one.id for one in chosen]))
        for one in chosen:
            self.queued[one.lane].append(one.event.id)

    @invariant()
    def order_is_kept(self) -> None:
        """Deliveries of a lane are settled in the order in which they were queued; what arrives twice does so in a row."""
        for lane in LANES:
            assert self.settled[lane] == sorted(set(self.settled[lane]))

    def teardown(self) -> None:
        """Whoever is alive delivers the rest: nothing was lost, and what arrived for the first time did so in order."""
        run = self.runner.run
        for which, clock in enumerate(self.clocks):
            for lane in LANES:
                abandon(self.shared, lane)
            run(clock.advance(3.1))
            for lane in run(self.replicas[which].lanes(free=True)):
                while run(self.replicas[which].claim(lane)):
                    page = run(self.replicas[which].pending(lane))
                    for one in page:
                        self.arrived[lane].append(one.event.id)
                        run(self.replicas[which].delivered(one.id))
                    if not page:
                        assert run(self.replicas[which].release(lane))
        assert run(self.replicas[0].lanes()) == []
        dead = {(one.lane, one.event.id) for one in run(self.replicas[0].dead_letters(limit=1_000))}
        for lane in LANES:
            arrived, queued = self.arrived[lane], self.queued[lane]
            assert set(arrived) | {name for of, name in dead if of == lane} == set(queued)
            once = [name for name, _ in itertools.groupby(arrived)]
            places = iter(queued)
            assert all(name in places for name in once), (once, queued)
        run(self.started.aclose())
        self.stack.close()


class TestSharedOutbox(SharedOutboxMachine.TestCase):
    """At random, but the same each run."""

    settings = settings(
        max_examples=12,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


class TestDelivering(DeliveringMachine.TestCase):
    """At random, but the same each run."""

    settings = settings(TestSharedOutbox.settings, max_examples=25)

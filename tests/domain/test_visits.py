"""Visits: announced once each, whatever the votes do, and never at somebody else's cost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.domain.events import Who
from face_server.domain.visits import Visit, VisitBook


def _who(name: str) -> Who:
    return Who(name, 0.7, 0.45, collection="default", identity_id=name)


ANN, BOB = _who("ann"), _who("bob")


def test_a_visit_is_announced_once_and_ends_after_the_absence():
    """The first sight announces; staying stays silent; five seconds after the last sight the visit is over."""
    book = VisitBook(60, 5, False)
    assert [book.seen(ANN, at) for at in (100, 101, 104, 108.9)] == [True, False, False, False]
    assert book.open_visits() == [Visit(ANN, 100, 108.9)]
    assert book.pass_time(113.9) == []
    assert book.pass_time(114) == [Visit(ANN, 100, 108.9)]
    assert book.pass_time(200) == book.open_visits() == []


def test_a_return_within_the_realert_time_is_silent_to_its_end():
    """Coming back within a minute of the announcement opens a visit that neither begins nor ends in an event."""
    book = VisitBook(60, 5, False)
    assert book.seen(ANN, 0)
    assert book.pass_time(10) == [Visit(ANN, 0, 0)]
    assert not any(book.seen(ANN, at) for at in range(30, 80, 4))
    assert book.open_visits() == [Visit(ANN, 30, 78)]
    assert book.pass_time(90) == []
    assert book.seen(ANN, 91)


def test_every_return_is_announced_where_the_rule_says_so():
    """With realert_on_return each visit is announced, however soon it follows."""
    book = VisitBook(3600, 5, True)
    assert [book.seen(ANN, at) for at in (0, 1, 10, 11, 20)] == [True, False, True, False, True]
    assert [visit.started_at for visit in book.pass_time(100)] == [0, 10, 20]


def test_a_flapping_vote_never_announces_again():
    """A, unknown, A, B, A: one announcement of A and one of B."""
    book = VisitBook(60, 5, False)
    sights = [ANN, None, ANN, BOB, ANN, BOB, None, ANN]
    assert [book.seen(who, at) for at, who in enumerate(sights) if who] == [True, False, True, False, False, False]


def test_announcing_one_person_mutes_no_bystander():
    """Each person has timers of their own."""
    book = VisitBook(60, 5, False)
    assert book.seen(ANN, 0)
    assert book.seen(BOB, 0)
    assert book.seen(_who("cyd"), 0.1)
    assert [visit.who.name for visit in book.open_visits()] == ["ann", "bob", "cyd"]


def test_a_stranger_who_gets_a_name_goes_on_with_the_visit():
    """The visit keeps its beginning and is not announced again, also not after a return within the realert time."""
    book = VisitBook(60, 5, False)
    stranger = Who("Stranger 1", 1.0, 0.45, stranger_id="s1")
    assert book.seen(stranger, 0)
    book.follow(stranger.key, ANN)
    assert not book.seen(ANN, 2)
    assert book.pass_time(10) == [Visit(ANN, 0, 2)]
    assert not book.seen(ANN, 30)


def test_two_visits_that_turn_out_to_be_one_person_become_one():
    """A stranger named as somebody who is here too: one visit from the earlier beginning, one end."""
    book = VisitBook(60, 5, False)
    stranger = Who("Stranger 1", 1.0, 0.45, stranger_id="s1")
    book.seen(stranger, 0)
    book.seen(ANN, 3)
    book.follow(stranger.key, ANN)
    assert book.pass_time(20) == [Visit(ANN, 0, 3)]
    book.follow("stranger/unheard-of", BOB)
    assert book.open_visits() == []


def test_changed_rules_apply_to_open_visits():
    """A shorter absence ends a visit sooner; what was announced stays known."""
    book = VisitBook(60, 100, False)
    book.seen(ANN, 0)
    book.change(60, 5, False)
    assert book.pass_time(6) == [Visit(ANN, 0, 0)]
    assert not book.seen(ANN, 10)


def test_a_clock_that_is_set_back_leaves_nobody_in_forever():
    """When the time jumps back by an hour, the visit ends instead of lasting until the old time comes again."""
    book = VisitBook(60, 5, False)
    book.seen(ANN, 10_000)
    assert book.pass_time(6_400) == [Visit(ANN, 10_000, 10_000)]
    assert book.seen(ANN, 6_401)


@dataclass
class _Person:
    """The rules as they are written down, for one person."""

    sights: list[float]
    announcements: list[float]
    announced_visit: bool = False


class _Model:
    """Remembers everything for ever."""

    def __init__(self, realert_s: float, absence_s: float, on_return: bool) -> None:
        self.realert_s, self.absence_s, self.on_return = realert_s, absence_s, on_return
        self.people: dict[str, _Person] = {}

    def seen(self, who: Who, at: float) -> bool:
        person = self.people.setdefault(who.key, _Person([], []))
        here = bool(person.sights) and at - person.sights[-1] <= self.absence_s
        person.sights.append(at)
        if here:
            return False
        recently = any(at - one < self.realert_s for one in person.announcements)
        person.announced_visit = self.on_return or not recently
        if person.announced_visit:
            person.announcements.append(at)
        return person.announced_visit

    def here(self, now: float) -> set[str]:
        return {key for key, person in self.people.items() if now - person.sights[-1] <= self.absence_s}


STEPS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["ann", "bob", "cyd", None])), max_size=60)


@given(STEPS, st.integers(0, 90), st.integers(1, 30), st.booleans())
def test_the_book_is_the_rules_as_written(steps, realert_s, absence_s, on_return):
    """Against a model that never forgets: the same announcements, one end for each of them, the same people here."""
    book, model = VisitBook(realert_s, absence_s, on_return), _Model(realert_s, absence_s, on_return)
    now, begun, ended = 0.0, [], []
    for wait, name in steps:
        now += wait
        if name:
            expected = model.seen(_who(name), now)
            assert book.seen(_who(name), now) == expected
            begun += [(_who(name).key, now)] * expected
        ended += [(visit.who.key, visit.started_at) for visit in book.pass_time(now)]
        assert {visit.who.key for visit in book.open_visits()} == model.here(now)
    ended += [(visit.who.key, visit.started_at) for visit in book.pass_time(now + absence_s + 1)]
    assert sorted(ended) == sorted(begun)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(1, 100))
def test_memory_is_bounded_by_who_was_here_lately(realert_s, absence_s):
    """A thousand passers-by later the book knows only those within the longer of the two times."""
    book = VisitBook(realert_s, absence_s, False)
    for number in range(1000):
        book.seen(_who(str(number)), number)
        book.pass_time(number)
    assert len(book._open) <= absence_s + 1
    assert len(book._announced_at) <= max(realert_s, absence_s) + 1

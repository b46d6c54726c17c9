"""Which streams a replica takes and gives back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.replicas import Hold, ReplicaNote
from face_server.streams.spreading import Spreading, SpreadOptions, fair_share

LOST = Hold()
FREE = Hold(free=True)
FRESH = Hold(fresh=True)
OPTIONS = SpreadOptions(grace_s=3, courtesy_s=2, settled_s=5, rebalance_s=2)


def other(name: str = "b", room: int = 8) -> ReplicaNote:
    """Another replica."""
    return ReplicaNote(name, name, room=room)


@pytest.fixture
def spreading() -> Spreading:
    """A replica that knows one other."""
    spreading = Spreading(OPTIONS, random.Random(1))
    spreading.meet([other()], 0.0)
    return spreading


def taken(spreading: Spreading, now: float, mine: int = 0, streams: int = 4, room: int = 8) -> dict[str, bool]:
    """What it would claim."""
    return dict(spreading.to_take(mine=mine, streams=streams, room=room, now=now))


@pytest.mark.parametrize(
    ("streams", "rooms", "share"),
    [(0, [8], 0), (6, [8, 8], 3), (7, [8, 8], 4), (5, [1, 8, 8], 2), (10, [2, 3, 9], 5), (100, [4, 4], 4), (3, [], 0), (3, [0, 8], 3)],
)
def test_shares(streams: int, rooms: list[int], share: int) -> None:
    """Small replicas are filled, the rest is split."""
    assert fair_share(streams, rooms) == share


@given(st.integers(0, 60), st.lists(st.integers(0, 20), max_size=6))
def test_a_share_is_enough_and_no_larger_than_needed(streams: int, rooms: list[int]) -> None:
    """With one stream less a replica something would not run, unless there is no room at all."""
    share = fair_share(streams, rooms)
    covered = sum(min(room, share) for room in rooms)
    assert covered >= min(streams, sum(rooms))
    if share:
        assert sum(min(room, share - 1) for room in rooms) < min(streams, sum(rooms))


def test_what_was_let_go_or_is_new_is_taken_at_once_up_to_the_share(spreading: Spreading) -> None:
    """And the rest, after a while of courtesy, up to the room."""
    spreading.see(dict.fromkeys("abc", FREE) | {"d": FRESH}, 10.0)
    assert len(taken(spreading, 10.0)) == 2
    assert set(taken(spreading, 10.0).values()) == {False}
    assert len(taken(spreading, 12.5)) == 4
    assert len(taken(spreading, 12.5, room=3)) == 3
    assert taken(spreading, 12.5, room=0) == {}


def test_a_vanished_owner_is_waited_for(spreading: Spreading) -> None:
    """Grace counts from when its stream was first seen to be nobody's."""
    spreading.see({"a": Hold("b")}, 10.0)
    spreading.see({"a": LOST}, 11.0)
    assert taken(spreading, 13.9) == {}
    spreading.see({"a": LOST}, 14.0)
    assert taken(spreading, 14.0) == {"a": True}
    spreading.see({"a": Hold("b")}, 14.1)
    assert taken(spreading, 14.1) == {}


def test_only_time_in_which_the_others_were_seen_counts(spreading: Spreading) -> None:
    """After an interruption it watches anew."""
    spreading.see({"a": LOST}, 10.0)
    spreading.interrupted()
    assert taken(spreading, 20.0) == {}
    spreading.see({"a": LOST}, 20.0)
    assert taken(spreading, 22.9) == {}
    assert taken(spreading, 23.0) == {"a": True}


def test_a_stream_that_seems_new_but_had_an_owner_is_waited_for(spreading: Spreading) -> None:
    """All keys were lost, and the owner runs it still."""
    spreading.see({"a": Hold("b")}, 10.0)
    spreading.see({"a": FRESH}, 11.0)
    assert taken(spreading, 11.0) == {}
    assert taken(spreading, 14.0) == {"a": True}


def test_with_more_than_its_share_it_gives_back_one_at_a_time(spreading: Spreading) -> None:
    """Once all has settled, and as long as there is somebody with room."""

    def gives(now: float, mine: int = 4) -> bool:
        return spreading.gives_back(mine=mine, streams=4, room=8, now=now)

    spreading.see({}, 1.0)
    assert not gives(4.0)
    assert not gives(6.0, mine=2)
    assert gives(6.0)
    assert not gives(7.0)
    assert gives(8.0, mine=3)
    spreading.see({"a": FREE}, 20.0)
    assert not gives(20.0)
    spreading.see({}, 21.0)
    spreading.meet([other(), other("c")], 21.0)
    assert not gives(22.0)
    assert gives(26.0)
    spreading.meet([other(room=0)], 30.0)
    assert not gives(40.0)

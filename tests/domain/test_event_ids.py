"""Ids of events sort by time and are never given twice."""

from __future__ import annotations

from face_server.domain.event_ids import new_event_id


def test_ids_sort_by_time():
    """A later event has a larger id."""
    ids = [new_event_id(1_700_000_000 + number / 10) for number in range(100)]

    assert ids == sorted(ids)


def test_ids_of_one_moment_differ():
    """However many there are in a millisecond."""
    ids = [new_event_id(1_700_000_000.0) for _ in range(10_000)]

    assert len(set(ids)) == len(ids)
    assert {len(one) for one in ids} == {32}

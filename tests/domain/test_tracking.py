"""Faces that move over a textured picture, followed by the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face_server.domain.face import Box, Detection
from face_server.domain.image import Image
from face_server.domain.tracking import Tracker, TrackerOptions
from face_server.domain.tracks import Track

WIDTH, HEIGHT = 480, 270
SIZE = 32.0
SHAPE = np.array([(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.8), (0.65, 0.8)], np.float32)


def _texture(seed: int, width: int, height: int) -> np.ndarray:
    grain = np.random.default_rng(seed).uniform(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)


BACKGROUND = _texture(1, WIDTH, HEIGHT)


def _detection(x: float, y: float, size: float = SIZE, score: float = 0.9) -> Detection:
    box = Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Detection(box, score, SHAPE * np.float32(size) + np.array([box.x1, box.y1], np.float32))


@dataclass(frozen=True)
class _Walker:
    """A face that moves straight; speeds in pixels a second."""

    looks: int
    start: tuple[float, float]
    speed: tuple[float, float]

    def at(self, seconds: float) -> tuple[float, float]:
        return self.start[0] + self.speed[0] * seconds, self.start[1] + self.speed[1] * seconds


def _picture(places: Sequence[tuple[int, tuple[float, float]]]) -> Image:
    """The background with faces on it, the later ones in front."""
    pixels = BACKGROUND.copy()
    for looks, (x, y) in places:
        side = int(SIZE * 1.4)
        left, top = int(x - side / 2), int(y - side / 2)
        head = _texture(100 + looks, side, side)
        x1, y1, x2, y2 = max(0, left), max(0, top), min(WIDTH, left + side), min(HEIGHT, top + side)
        if x1 < x2 and y1 < y2:
            pixels[y1:y2, x1:x2] = head[y1 - top : y2 - top, x1 - left : x2 - left]
    return Image.from_pixels(pixels)


def _found(tracks: Sequence[Track]) -> list[Track]:
    return [track for track in tracks if not track.missed]


EMPTY = Image.from_pixels(BACKGROUND)
CROWDS = st.lists(
    st.lists(
        st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT), st.floats(8, 90), st.floats(0.5, 1.0)).map(lambda it: _detection(*it)),
        max_size=8,
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(CROWDS, st.randoms(use_true_random=False))
def test_the_order_of_the_detections_does_not_matter(crowds, random):
    """Shuffling what the detector found on each frame changes neither ids nor boxes."""
    one, other = Tracker(), Tracker()
    for number, crowd in enumerate(crowds):
        shuffled = random.sample(crowd, len(crowd))
        expected = [(track.id, track.detection.box, track.missed) for track in one.update(crowd, EMPTY, at=number / 5)]
        assert [(track.id, track.detection.box, track.missed) for track in other.update(shuffled, EMPTY, at=number / 5)] == expected


@settings(max_examples=60, deadline=None)
@given(CROWDS, st.integers(1, 6))
def test_ids_are_single_bounded_and_never_given_twice(crowds, most):
    """On no frame an id occurs twice or more tracks live than allowed, and an id that ended never returns."""
    tracker = Tracker(TrackerOptions(max_tracks=most))
    before: set[int] = set()
    ended: set[int] = set()
    for number, crowd in enumerate(crowds):
        tracks = tracker.update(crowd, EMPTY, at=number * 0.4)
        ids = [track.id for track in tracks]
        assert ids == sorted(set(ids))
        assert len(ids) <= most
        assert not ended & set(ids)
        found = _found(tracks)
        assert len({id(track.detection) for track in found}) == len(found) <= len(crowd)
        assert all(any(track.detection is one for one in crowd) for track in found)
        ended |= before - set(ids)
        before = set(ids)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([5.0, 8.0, 12.5, 25.0]),
    st.floats(-70, 70),
    st.floats(-20, 20),
    st.floats(0.8, 2.0),
    st.floats(0.1, 1.0),
    st.integers(0, 9),
)
def test_a_face_that_moves_smoothly_keeps_its_id_through_a_gap_of_a_second(fps, right, down, gap_at, gap_s, looks):
    """Whatever the frame rate and the speed (up to two sizes a second), an occlusion of up to a second does not end a track."""
    walker = _Walker(looks, (240.0 - right * 1.5, 135.0 - down * 1.5), (right, down))
    tracker = Tracker()
    ids = set()
    for number in range(int(3.2 * fps)):
        now = number / fps
        hidden = gap_at < now < gap_at + gap_s - 1 / fps
        place = walker.at(now)
        picture = EMPTY if hidden else _picture([(looks, place)])
        tracks = tracker.update([] if hidden else [_detection(*place)], picture, at=now)
        assert len(tracks) == 1
        assert bool(tracks[0].missed) == hidden
        ids.add(tracks[0].id)
    assert ids == {1}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([5.0, 8.0, 12.5, 25.0]), st.floats(40, 100), st.floats(-12, 12), st.integers(0, 4), st.integers(5, 9))
def test_two_faces_that_cross_keep_their_ids(fps, speed, apart, front, rear):
    """Two people walk past each other; the one behind is hidden while they overlap, and both come out as themselves."""
    duration = 200.0 / speed
    first = _Walker(rear, (240.0 - 100.0, 135.0), (speed, 0.0))
    second = _Walker(front, (240.0 + 100.0, 135.0 + apart), (-speed, 0.0))
    tracker = Tracker()
    ids: dict[int, set[int]] = {front: set(), rear: set()}
    for number in range(int(duration * fps)):
        now = number / fps
        behind, before = first.at(now), second.at(now)
        detections = {front: _detection(*before)}
        if abs(behind[0] - before[0]) > 0.6 * SIZE:
            detections[rear] = _detection(*behind)
        tracks = tracker.update(list(detections.values()), _picture([(rear, behind), (front, before)]), at=now)
        for looks, detection in detections.items():
            ids[looks] |= {track.id for track in tracks if track.detection is detection}
    assert [len(own) for own in ids.values()] == [1, 1]
    assert ids[front] != ids[rear]


def test_a_track_ends_when_it_was_missed_too_long():
    """After 1.2 s out of sight a face gets a new id; the track is listed as missed until then."""
    tracker = Tracker()
    here = [_detection(200, 130)]
    assert [track.id for track in tracker.update(here, EMPTY, at=10.0)] == [1]
    (missed,) = tracker.update([], EMPTY, at=11.2)
    assert (missed.id, missed.missed, missed.hits, missed.first_at, missed.last_at) == (1, 1, 1, 10.0, 10.0)
    assert tracker.update([], EMPTY, at=11.3) == []
    assert [track.id for track in tracker.update(here, EMPTY, at=11.4)] == [2]


@pytest.mark.parametrize("fps", [1.0, 0.8, 0.5])
def test_slow_cameras_have_tracks(fps):
    """A face that is on every frame keeps its id, though the frames are further apart than it may be missed."""
    tracker, walker = Tracker(), _Walker(1, (100.0, 100.0), (4.0, 1.0))
    for number in range(6):
        place = walker.at(number / fps)
        (track,) = tracker.update([_detection(*place)], _picture([(1, place)]), at=number / fps)
        assert (track.id, track.hits) == (1, number + 1)


def test_a_missed_face_is_predicted_where_it_was_going():
    """The box of a track that is hidden moves on with it, with its landmarks in place."""
    tracker = Tracker()
    for number in range(10):
        tracker.update([_detection(100 + number * 5, 130)], EMPTY, at=number / 10)
    (missed,) = tracker.update([], EMPTY, at=1.2)
    box = missed.detection.box
    assert (box.x1 + box.x2) / 2 == pytest.approx(160, abs=4)
    assert np.allclose(missed.detection.landmarks, SHAPE * SIZE + [box.x1, box.y1], atol=1.5)


def test_a_doubtful_detection_begins_a_track_at_the_second_sight_only():
    """A score far below that of the faces around continues tracks, but must be seen twice to begin one."""
    tracker = Tracker()
    sure, doubtful = _detection(100, 130), _detection(300, 130, score=0.5)
    assert [track.id for track in tracker.update([sure, doubtful], EMPTY, at=0.0)] == [1]
    assert [track.id for track in tracker.update([sure], EMPTY, at=0.2)] == [1]
    assert [track.id for track in tracker.update([sure, doubtful], EMPTY, at=0.4)] == [1]
    tracks = tracker.update([sure, doubtful], EMPTY, at=0.6)
    assert [track.id for track in tracks] == [1, 2]
    weaker = _detection(100, 130, score=0.4)
    assert _found(tracker.update([weaker], EMPTY, at=0.8))[0].id == 1


def test_reset_ends_all_tracks_and_ids_count_on():
    """After a reset the same face at the same place is somebody new."""
    tracker = Tracker()
    tracker.update([_detection(200, 130)], EMPTY, at=0.0)
    tracker.reset()
    assert [track.id for track in tracker.update([_detection(200, 130)], EMPTY, at=0.1)] == [2]


def test_time_that_goes_back_is_time_that_stands_still():
    """A frame with an earlier time neither ends tracks nor breaks the filter."""
    tracker = Tracker()
    for at in (5.0, 4.0, 5.0, 5.1):
        assert [track.id for track in tracker.update([_detection(200, 130)], EMPTY, at=at)] == [1]


def test_a_camera_that_turns_takes_its_tracks_along():
    """When the whole picture moves by two face sizes between frames, everybody keeps their id."""
    wide = _texture(3, WIDTH * 2, HEIGHT)
    tracker = Tracker()
    for number, x in enumerate((0, 60, 120, 180, 120, 60)):
        picture = Image.from_pixels(np.ascontiguousarray(wide[:, x : x + WIDTH]))
        places = [(240.0 - x, 130.0), (300.0 - x, 130.0), (360.0 - x, 130.0)]
        tracks = tracker.update([_detection(*place, size=24.0) for place in places], picture, at=number / 5)
        assert [round(track.detection.box.x1 + 12) for track in sorted(_found(tracks), key=lambda one: one.id)] == [
            240 - x,
            300 - x,
            360 - x,
        ]
        assert len(tracks) == 3

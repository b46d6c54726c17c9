"""Real people on real videos: how often their ids change.

``faces_of_videos.json`` says where each person's face is: per video and person the frame number, x, y
and size in pixels, straight lines in between. It was made from the detections of every frame, told
apart by their embeddings and checked by eye.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from face_server.backends.onnx import OnnxBackend
from face_server.domain.camera_motion import CameraMotion
from face_server.domain.face import Box, Detection
from face_server.domain.image import Image
from face_server.domain.tracking import Tracker
from face_server.models.detector import DetectorOptions, NetworkDetector
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

TRUTH = json.loads(Path(__file__).with_name("faces_of_videos.json").read_text())
STREET, STAGE = "street_1080p.mp4", "stage_360p.mp4"
STAGE_CUTS = (20, 82, 211)


@dataclass(frozen=True)
class _Seen:
    """A frame (at most 960 pixels wide), its time, and who was found on it."""

    number: int
    at: float
    image: Image
    detections: list[Detection]
    people: list[str | None]


def _people(video: str, number: int, boxes: list[Box], scale: float) -> list[str | None]:
    """Whose face each box is; of two boxes on one face the nearer one counts."""
    people: list[str | None] = [None] * len(boxes)
    for person, points in TRUTH[video].items():
        numbers, *places = np.array(points, float).T
        if not numbers[0] <= number <= numbers[-1]:
            continue
        x, y, size = (np.interp(number, numbers, values) / scale for values in places)
        away = [np.hypot((box.x1 + box.x2) / 2 - x, (box.y1 + box.y2) / 2 - y) / size for box in boxes]
        alike = [distance for distance, box in zip(away, boxes, strict=True) if 0.6 < box.area**0.5 / size < 1.7]
        if alike and min(alike) < 0.35:
            people[away.index(min(alike))] = person
    return people


@pytest.fixture(scope="module")
def videos(shared: Path, weights: WeightsStore) -> dict[str, list[_Seen]]:
    """Both videos with the faces that the default detector finds."""

    async def watch(path: Path) -> list[_Seen]:
        seen = []
        with Workers(1) as workers, av.open(path) as container:
            detector = NetworkDetector(weights.entry("yunet"), OnnxBackend([weights.network("yunet")], workers), workers, DetectorOptions())
            for number, frame in enumerate(container.decode(video=0)):
                scale = max(1.0, frame.width / 960)
                pixels = frame.to_ndarray(width=round(frame.width / scale), height=round(frame.height / scale), format="bgr24")
                image = Image.from_pixels(pixels)
                (detections,) = await detector.detect([image], min_score=0.6, max_size_px=640)
                people = _people(path.name, number, [one.box for one in detections], scale)
                seen.append(_Seen(number, float(frame.pts * frame.time_base), image, detections, people))
        return seen

    return {name: asyncio.run(watch(shared / "data" / "videos" / name)) for name in (STREET, STAGE)}


@dataclass(frozen=True)
class _Outcome:
    """``switches``: a person got another id within a second of being seen. ``mixed``: ids given to two people."""

    people: int
    tracks: int
    switches: int
    mixed: int


def _follow(frames: list[_Seen]) -> _Outcome:
    tracker = Tracker()
    last: dict[str, tuple[int, float]] = {}
    owners: defaultdict[int, set[str]] = defaultdict(set)
    switches = 0
    for frame in frames:
        tracks = {id(track.detection): track.id for track in tracker.update(frame.detections, frame.image, at=frame.at)}
        for detection, person in zip(frame.detections, frame.people, strict=True):
            if person is None or id(detection) not in tracks:
                continue
            track = tracks[id(detection)]
            owners[track].add(person)
            before, at = last.get(person, (track, frame.at))
            switches += before != track and frame.at - at <= 1.0
            last[person] = track, frame.at
    return _Outcome(len(last), len(owners), switches, sum(len(people) - 1 for people in owners.values()))


@pytest.mark.parametrize("video", [STREET, STAGE])
def test_at_full_rate_people_keep_their_ids(videos, video):
    """On every frame (25 and 30 fps) no id passes from one person to another; once the detector draws two boxes around one face."""
    outcome = _follow(videos[video])
    assert outcome.people == len(TRUTH[video])
    assert outcome.mixed == 0
    assert outcome.switches <= 2  # to the second box and back
    # Two of the street are out of sight for longer than a second and come back.
    assert outcome.tracks <= outcome.people + 3


@pytest.mark.parametrize(("video", "step"), [(STREET, 5), (STAGE, 6)])
def test_at_five_frames_a_second_people_keep_their_ids(videos, video, step):
    """Analysed at 5 fps, whichever frame it begins with: per run at most one change of id in a second, and hardly ever a mixed track."""
    outcomes = [_follow(videos[video][offset::step]) for offset in range(step)]
    assert sum(one.mixed for one in outcomes) <= 3
    assert sum(one.switches for one in outcomes) <= step
    assert max(one.tracks - one.people for one in outcomes) <= 4


@pytest.mark.parametrize("step", [1, 2, 6])
def test_real_cuts_are_noticed_and_end_all_tracks(videos, step):
    """The three cuts of the stage are found at any rate, nothing else, and nobody inherits an id across them."""
    frames = videos[STAGE][::step]
    camera, tracker = CameraMotion(), Tracker()
    expected = [next(frame.number for frame in frames if frame.number >= cut) for cut in STAGE_CUTS]
    before: set[int] = set()
    cuts = []
    for frame in frames:
        now = {track.id for track in tracker.update(frame.detections, frame.image, at=frame.at)}
        if camera.look(frame.image.pixels).cut:
            cuts.append(frame.number)
            assert not before & now
        before = now
    assert cuts == expected


@pytest.mark.parametrize("step", [1, 5, 10])
def test_people_and_a_shaky_camera_are_no_cut(videos, step):
    """On the street, where people cross the picture and the camera sways, no cut is found."""
    camera = CameraMotion()
    assert not any(camera.look(frame.image.pixels).cut for frame in videos[STREET][::step])


@pytest.mark.parametrize("gain", [0.5, 0.7, 1.4])
def test_flickering_light_is_no_cut(videos, gain):
    """Exposure that jumps from frame to frame neither cuts nor changes ids."""
    camera, steady, flickering = CameraMotion(), Tracker(), Tracker()
    for frame in videos[STREET][::3]:
        factor = gain if frame.number % 2 else 1.0
        lit = Image.from_pixels(np.clip(frame.image.pixels * factor, 0, 255).astype(np.uint8))
        assert not camera.look(lit.pixels).cut
        expected = {
            (track.id, id(track.detection)) for track in steady.update(frame.detections, frame.image, at=frame.at) if not track.missed
        }
        found = {(track.id, id(track.detection)) for track in flickering.update(frame.detections, lit, at=frame.at) if not track.missed}
        assert len(found - expected) <= len(found) // 4

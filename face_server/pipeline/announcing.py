"""Who came and who left, as events with their pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import cv2
import numpy as np

from face_server.domain.appearance import Shot
from face_server.domain.event_ids import new_event_id
from face_server.domain.events import Event, EventKind, Picture, SceneFace
from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock, ImageCodec
from face_server.domain.stream_ports import DrawScene
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import SeenTrack
from face_server.domain.visits import Visit
from face_server.workers import Workers

FRAME_PICTURE_SIZE_PX = 1920
"""The long side of the picture of a scene, at most."""

_CROP_QUALITY = 92
_FRAME_QUALITY = 85


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """The best shot of a visit, and where it is from: a track, on a frame of this size."""

    shot: Shot
    track: int
    frame_size: tuple[int, int]


class Announcer:
    """Makes events of arrivals and departures: at once without pictures, and then with them.

    Making events neither waits nor fails, so that what was decided exists from then on, whatever
    becomes of its pictures.
    """

    def __init__(self, codec: ImageCodec, draw: DrawScene, workers: Workers, clock: Clock) -> None:
        self._codec = codec
        self._draw = draw
        self._workers = workers
        self._clock = clock

    def arrived(self, spec: StreamSpec, frame: Frame, scene: Sequence[SeenTrack], whom: Collection[int]) -> list[Event]:
        """An event for each track in ``whom``, all with the same scene."""
        now = self._clock.now()
        seen = [one for one in scene if not one.track.missed]
        faces = tuple(_scene_face(one, one.track.id in whom) for one in seen)
        return [
            Event(
                id=new_event_id(now),
                kind=EventKind.STRANGER_SEEN if one.who.stranger_id else EventKind.PERSON_SEEN,
                stream_id=spec.id,
                at=now,
                started_at=frame.taken_at - max(0.0, frame.captured_at - one.track.first_at),
                ended_at=frame.taken_at,
                track=one.track.id,
                who=one.who,
                box=one.track.detection.box,
                frame_width=frame.width,
                frame_height=frame.height,
                faces=faces,
                message=f"{one.who.name} was seen on {_place(spec)}",
            )
            for one in seen
            if one.who is not None and one.track.id in whom
        ]

    def left(self, spec: StreamSpec, visit: Visit, portrait: Portrait | None) -> Event:
        """The event of a visit that ended, with where its best picture is from."""
        now = self._clock.now()
        event = Event(
            id=new_event_id(now),
            kind=EventKind.STRANGER_LEFT if visit.who.stranger_id else EventKind.PERSON_LEFT,
            stream_id=spec.id,
            at=now,
            started_at=visit.started_at,
            ended_at=visit.last_at,
            who=visit.who,
            message=f"{visit.who.name} left {_place(spec)} after {max(0.0, visit.last_at - visit.started_at):.0f} s",
        )
        if portrait is None:
            return event
        width, height = portrait.frame_size
        return replace(event, track=portrait.track, box=portrait.shot.detection.box, frame_width=width, frame_height=height)

    async def with_scene(
        self, events: Sequence[Event], spec: StreamSpec, frame: Frame, scene: Sequence[SeenTrack], shots: Mapping[int, Shot]
    ) -> tuple[list[Event], list[Picture]]:
        """Arrivals on one frame with the drawn scene and a crop of everybody on it; ``shots`` are the best ones by track."""
        if not events:
            return [], []
        now = self._clock.now()
        pictures = [await self._scene_picture(spec, frame, scene, now)]
        crops: dict[int, str] = {}
        for face in events[0].faces:
            shot = shots.get(face.track)
            if shot is not None:
                pictures.append(await self._crop_picture(shot, now))
                crops[face.track] = pictures[-1].id
        faces = tuple(replace(face, picture=crops.get(face.track, "")) for face in events[0].faces)
        drawn = [replace(one, picture=crops.get(one.track, ""), frame_picture=pictures[0].id, faces=faces) for one in events]
        return drawn, pictures

    async def with_portrait(self, event: Event, portrait: Portrait | None) -> tuple[Event, list[Picture]]:
        """A departure with the best picture of the visit."""
        if portrait is None:
            return event, []
        picture = await self._crop_picture(portrait.shot, self._clock.now())
        return replace(event, picture=picture.id), [picture]

    async def _crop_picture(self, shot: Shot, now: float) -> Picture:
        return Picture(new_event_id(now), await self._codec.encode_jpeg(shot.crop, quality=_CROP_QUALITY))

    async def _scene_picture(self, spec: StreamSpec, frame: Frame, scene: Sequence[SeenTrack], now: float) -> Picture:
        footer = f"{spec.name or spec.id} · {datetime.fromtimestamp(frame.taken_at, UTC):%Y-%m-%d %H:%M:%S} UTC"

        def draw() -> Pixels:
            pixels = _bounded(frame)
            x, y = pixels.shape[1] / frame.width, pixels.shape[0] / frame.height
            return self._draw(pixels, [_scaled(one, x, y) for one in scene], footer)

        drawn = await self._workers.run(draw)
        return Picture(new_event_id(now), await self._codec.encode_jpeg(drawn, quality=_FRAME_QUALITY))


def _place(spec: StreamSpec) -> str:
    return spec.name or spec.id


def _bounded(frame: Frame) -> Pixels:
    """The frame with a long side of at most ``FRAME_PICTURE_SIZE_PX``."""
    pixels = frame.scaled(FRAME_PICTURE_SIZE_PX).pixels
    height, width = pixels.shape[:2]
    ratio = FRAME_PICTURE_SIZE_PX / max(height, width)
    if ratio >= 1.0:
        return pixels
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scaled(seen: SeenTrack, x: float, y: float) -> SeenTrack:
    return replace(seen, track=replace(seen.track, detection=seen.track.detection.scaled(x, y)))


def _scene_face(seen: SeenTrack, announced: bool) -> SceneFace:
    detection = seen.track.detection
    return SceneFace(seen.track.id, detection.box, detection.score, seen.who, announced)

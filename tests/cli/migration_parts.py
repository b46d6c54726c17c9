"""A data folder with something of everything, for tests that move it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import time
from pathlib import Path

import numpy as np

from face_server.clock import FakeClock
from face_server.domain.access import Role
from face_server.domain.embedding import Embeddings, ModelId
from face_server.domain.events import Event, EventKind, Lane, Picture, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.strangers import Stranger
from face_server.domain.streams import Polygon, Schedule, SinkKind, SinkSpec, StreamRules, StreamSpec, Window
from face_server.gallery.sqlite import SqliteGallery
from face_server.journal.keys import SqliteKeyRing
from face_server.journal.options import JournalOptions
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.pipeline.stranger_shelf import StrangerShelf
from face_server.workers import Workers

MODEL = ModelId("sface", "fb143eea0783", 1, 128)
NOW = 1_700_000_000.25
DOOR = Lane("door", "webhook-1")
_CORNER = Polygon(((0.0, 0.0), (0.25, 0.0), (0.0, 0.5)))
SECRET_URL = "rtsp://viewer:pass-word@10.0.0.9/stream"


def person(number: int, model: ModelId = MODEL, *, templates: int = 2) -> list[Change]:
    """Somebody with templates, crops and metadata, the same each time."""
    noise = np.random.default_rng(number)
    embeddings = Embeddings.from_features(noise.normal(size=(templates, model.dimension)) * 7, model)
    own = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    changes: list[Change] = [PutIdentity(Identity(own, f"王小明 {number}", {"z": "last", "a": "Ärger"}, NOW + number / 3))]
    for place, embedding in enumerate(embeddings):
        digest = hashlib.sha256(own.encode()).hexdigest()
        crop = b"\xff\xd8crop%d" % number if place else None
        template = Template(f"{own}-{place}", own, 0.1 + place / 3, NOW + number + place, f"{number}.jpg", digest, bool(crop))
        changes.append(AddTemplate(TemplateRecord(template, embedding, crop)))
    return changes


async def fill(folder: Path, *, people: int = 450, events: int = 120) -> None:
    """Two collections, strangers, two cameras, events with pictures, what waits and what was given up, keys."""
    clock = FakeClock(NOW)
    folder.mkdir(exist_ok=True)
    with Workers(1) as workers:
        gallery = await SqliteGallery.open(folder / "gallery.sqlite", workers, clock)
        await gallery.create_collection(Collection("staff", MODEL, threshold=0.371, margin=0.05, target_fpir=0.002, created_at=NOW - 0.1))
        await gallery.create_collection(Collection("guests", MODEL, keep_crops=False, created_at=NOW))
        for first in range(0, people, 100):
            await gallery.apply("staff", [one for number in range(first, min(people, first + 100)) for one in person(number)])
        await gallery.apply("guests", person(1))
        await gallery.create_collection(Collection("strangers", MODEL, created_at=NOW))
        stranger = Stranger("00ff00ff00ff00ff", 7, "Stranger 7", NOW, NOW + 5, 3, 0.81)
        await gallery.apply("strangers", [StrangerShelf.remembering(9), PutIdentity(stranger.identity()), *_shot(stranger.id)])
        await gallery.close()
    journal = await SqliteJournal.open(folder / "journal.sqlite", clock, Sealer.from_file(folder / "secret.key"), JournalOptions())
    sink = SinkSpec(SinkKind.WEBHOOK, "http://10.0.0.5/alerts", secret="a-sink-secret", kinds=(EventKind.PERSON_SEEN,))
    rules = StreamRules(schedule=Schedule((Window(frozenset({5, 0, 3}), time(22), time(6, 30)),)), ignore=(_CORNER,))
    await journal.add_stream(StreamSpec("door", SECRET_URL, name="Door", rules=rules, sinks=(sink,)))
    await journal.add_stream(StreamSpec("aisle", "rtsp://10.0.0.10/stream"))
    for number in range(events):
        await append(journal, [event(number)], [DOOR.sink_key] if number % 3 else [])
    for delivery in (await journal.pending(DOOR))[:3]:
        await clock.advance(1.5)
        await journal.bury(delivery.id, f"HTTP 410 for {delivery.event.id}")
    await journal.close()
    keys = await SqliteKeyRing.open(folder / "keys.sqlite", clock)
    await keys.create(Role.ADMIN, "the operator")
    _, secret = await keys.create(Role.READ, "a screen", expires_at=NOW + 1e9)
    await keys.authenticate(secret)
    await keys.close()
    (folder / "secret-of-a-key").write_text(secret)


def event(number: int, stream: str = "door") -> Event:
    """Somebody was seen, with a picture of the face and, each fourth time, one of the scene."""
    who = Who(f"王小明 {number}", 0.7 + number / 1e4, 0.42, collection="staff", identity_id=f"{number:016x}")
    scene = f"scene-{number // 8}" if number % 4 == 0 else ""
    faces = (SceneFace(number, Box(1.5, 2, 30, 40), 0.9, who, announced=True, picture=f"face-{number}"),)
    return Event(
        f"{number:08x}{stream}",
        EventKind.PERSON_SEEN,
        stream,
        NOW + number,
        NOW + number - 1,
        NOW + number,
        track=number,
        who=who,
        box=Box(1.5, 2, 30, 40),
        frame_width=640,
        frame_height=360,
        picture=f"face-{number}",
        frame_picture=scene,
        faces=faces,
        message=f"somebody was seen at {stream}",
    )


async def append(journal: SqliteJournal, some: Sequence[Event], sinks: Sequence[str]) -> None:
    """Store events with their pictures."""
    pictures = {one for each in some for one in (each.picture, each.frame_picture) if one}
    jpegs = [Picture(one, b"\xff\xd8" + one.encode() * 50) for one in sorted(pictures)]
    await journal.append(some, jpegs, {each.id: tuple(sinks) for each in some})


def filled(folder: Path, **amounts: int) -> Path:
    """``fill``, from outside of a loop."""
    asyncio.run(fill(folder, **amounts))
    return folder


def _shot(stranger_id: str) -> list[Change]:
    (embedding,) = Embeddings.from_features(np.random.default_rng(99).normal(size=(1, MODEL.dimension)), MODEL)
    return [AddTemplate(TemplateRecord(Template("5555", stranger_id, 0.81, NOW, has_crop=True), embedding, b"\xff\xd8stranger"))]

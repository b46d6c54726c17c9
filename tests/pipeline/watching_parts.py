"""Watching over real networks, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.watched import Parts, film
from face_server.domain.events import Event, EventKind
from face_server.domain.frame import Frame
from face_server.domain.streams import StreamRules, StreamSpec
from face_server.domain.tracks import Look
from face_server.pipeline.watching import CameraWatcher

STARS = ("lin_manuel_miranda", "alex_lacamoire", "obama")


@dataclass(eq=False)
class Seen:
    """What a watcher made of frames."""

    frames: list[Frame] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def add(self, look: Look, frame: Frame | None = None) -> None:
        """One more."""
        self.looks.append(look)
        if frame:
            self.frames.append(frame)

    @property
    def events(self) -> list[Event]:
        """All events in order."""
        return [event for look in self.looks for event in look.events]

    @property
    def pictures(self) -> dict[str, bytes]:
        """All pictures by id."""
        return {picture.id: picture.jpeg for look in self.looks for picture in look.pictures}

    def announced(self, kind: EventKind = EventKind.PERSON_SEEN) -> list[str]:
        """Names of the events of a kind, in order."""
        return [event.who.name for event in self.events if event.kind is kind and event.who]

    def named(self) -> list[set[str]]:
        """Frame by frame, the enrolled people in view."""
        return [{one.who.name for one in look.tracks if one.who and one.who.identity_id} for look in self.looks]

    def names(self) -> set[str]:
        """Every person any track was ever called."""
        return set[str]().union(*self.named())


@dataclass(eq=False)
class Watch:
    """Parts of watchers, and films to watch."""

    parts: Parts
    data: Path

    async def enroll(self, *names: str, collection: str = "default") -> None:
        """Enrol people of the test photos."""
        for name in names:
            await self.parts.enroll(self.data / "photos" / "people" / name, collection=collection)

    async def enroll_everybody(self) -> None:
        """Enrol all of them."""
        await self.enroll(*sorted(person.name for person in (self.data / "photos" / "people").iterdir()))

    def watcher(self, *, collections: tuple[str, ...] = ("default",), detail_url: str = "", **rules: Any) -> CameraWatcher:
        """Fresh eyes under these rules."""
        return CameraWatcher(spec(collections=collections, detail_url=detail_url, **rules), self.parts.tools)

    def watcher_with(self, **tools: Any) -> CameraWatcher:
        """Fresh eyes with other tools."""
        return CameraWatcher(spec(), replace(self.parts.tools, **tools))

    def stage(self, fps: float = 5.0, **part: float) -> Iterator[Frame]:
        """A show, 9 s: a singer in the first seven, a pianist in the first two, the president in the last two, and an audience."""
        return film(self.data / "videos" / "stage_360p.mp4", fps, self.parts.clock, **part)

    def street(self, fps: float = 5.0, **part: float) -> Iterator[Frame]:
        """Passers-by, 4 s, none of them enrolled."""
        return film(self.data / "videos" / "street_1080p.mp4", fps, self.parts.clock, **part)

    async def see(self, watcher: CameraWatcher, frames: Iterable[Frame]) -> Seen:
        """Let a watcher see frames, each at the time at which it was taken."""
        seen = Seen()
        for frame in frames:
            await self.parts.clock.advance(frame.captured_at - self.parts.clock.monotonic())
            seen.add(await watcher.look(frame), frame)
        return seen

    async def wait(self, watcher: CameraWatcher, seconds: float) -> Seen:
        """Let time pass without frames."""
        seen = Seen()
        for _ in range(round(seconds)):
            await self.parts.clock.advance(1.0)
            seen.add(await watcher.pass_time())
        return seen


def spec(*, collections: tuple[str, ...] = ("default",), detail_url: str = "", **rules: Any) -> StreamSpec:
    """A stream under these rules."""
    return StreamSpec("door", "file:film.mp4", name="Stage", detail_url=detail_url, collections=collections, rules=StreamRules(**rules))

"""People who are enrolled, looked for and deleted at replicas all the time, and whatever went wrong with them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from face_server.domain.image import Floats

VISIBLE_S = 0.2
"""A change is visible on every replica, or the replica says that its gallery is old, so long after it was acknowledged."""

_LOOKS = 3
_STEP_S = 0.05


class Away(Exception):
    """No replica is there to be asked, or it died while it was."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a search came to: ``named`` is the id of who was found, "" nobody. ``sure`` unless the replica says that its gallery is old.

    ``refused`` is why there was no search at all, "" where there was.
    """

    named: str = ""
    sure: bool = True
    refused: str = ""


class Desk(Protocol):
    """A replica, as whoever enrols and looks for people sees it. Every call may raise ``Away``."""

    def enrol(self, guest: str, vector: Floats) -> str:
        """Enrol; "" when acknowledged, or how it was refused."""
        ...

    def erase(self, guest: str) -> str:
        """Delete; "" when acknowledged, or how it was refused."""
        ...

    def look(self, vector: Floats) -> Sight:
        """Who is nearest, and near enough."""
        ...

    def known(self) -> set[str]:
        """The ids of everybody in the store."""
        ...


@dataclass
class Tally:
    """What happened. ``lost`` are acknowledged enrolments or deletions that are not in the store, or not in a replica's index.

    ``phantoms`` were named later than 200 ms after their deletion was acknowledged, by a replica that did not
    say that its gallery was old; ``unseen`` were acknowledged and not named just so.
    """

    enrolled: int = 0
    erased: int = 0
    searches: int = 0
    stale: int = 0
    lost: int = 0
    phantoms: int = 0
    unseen: int = 0
    away: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)

    @property
    def acknowledged(self) -> int:
        """Writes that were acknowledged."""
        return self.enrolled + self.erased


def unit_vector(seed: Sequence[int], dimension: int) -> Floats:
    """A random direction."""
    raw = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


class Guests:
    """Threads that enrol guest after guest, look for them everywhere, and delete every other one again."""

    def __init__(self, desks: Callable[[], Mapping[str, Desk]], dimension: int, *, threads: int = 2, seed: int = 0) -> None:
        self.tally = Tally()
        self._desks = desks
        self._dimension = dimension
        self._seed = seed
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._gone: set[str] = set()
        self._over = threading.Event()
        self._working = threading.Event()
        self._idle = [threading.Event() for _ in range(threads)]
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def go_on(self) -> None:
        """Work from now on."""
        self._working.set()

    def pause(self) -> None:
        """Finish what was begun, and wait."""
        self._working.clear()
        for idle in self._idle:
            idle.wait(120)

    def close(self) -> None:
        """End."""
        self._over.set()
        self._working.set()
        for thread in self._threads:
            thread.join(120)

    def forget(self) -> None:
        """Everybody is gone by somebody else's doing."""
        with self._lock:
            self._there.clear()
            self._gone.clear()

    def present(self) -> list[str]:
        """Everybody whose enrolment was acknowledged and who was not deleted."""
        with self._lock:
            return sorted(self._there)

    def vector(self, guest: str) -> Floats:
        """What a guest looks like: a unit vector."""
        return unit_vector([self._seed, int(guest.split("-")[1])], self._dimension)

    def settle(self, looks: int = 50) -> None:
        """While paused: compare what was acknowledged with what every replica has, and look for some of everybody."""
        with self._lock:
            there, gone = set(self._there), set(self._gone)
        some = random.sample(sorted(there), min(looks, len(there))) + random.sample(sorted(gone), min(looks, len(gone)))
        lost: set[str] = set()
        for desk in self._desks().values():
            known = desk.known()
            lost |= there - known | gone & known
            lost |= {guest for guest in some if (desk.look(self.vector(guest)).named == guest) != (guest in there)}
        self.tally.lost += len(lost)

    def _work(self, thread: int) -> None:
        chance = random.Random(f"{self._seed}-{thread}")
        number = thread
        while not self._over.is_set():
            if not self._working.is_set():
                self._idle[thread].set()
                self._working.wait()
                self._idle[thread].clear()
                continue
            number += len(self._threads)
            guest = f"g-{number}"
            try:
                self._enrol(guest, chance)
                if chance.random() < 0.5:
                    self._erase(guest, chance)
            except Away:
                with self._lock:
                    self.tally.away += 1
            time.sleep(_STEP_S)

    def _enrol(self, guest: str, chance: random.Random) -> None:
        if not self._write("enrol", lambda desk: desk.enrol(guest, self.vector(guest)), chance):
            return
        with self._lock:
            self._there.add(guest)
            self.tally.enrolled += 1
        time.sleep(VISIBLE_S)
        for sight in self._looks(guest):
            if sight.sure and sight.named != guest:
                self._count("unseen")

    def _erase(self, guest: str, chance: random.Random) -> None:
        with self._lock:
            if guest not in self._there:
                return
            # Until it is acknowledged nobody can say.
            self._there.discard(guest)
        if not self._write("delete", lambda desk: desk.erase(guest), chance):
            return
        with self._lock:
            self._gone.add(guest)
            self.tally.erased += 1
        time.sleep(VISIBLE_S)
        for _ in range(_LOOKS):
            for sight in self._looks(guest):
                if sight.sure and sight.named == guest:
                    self._count("phantoms")
            time.sleep(_STEP_S)

    def _write(self, what: str, write: Callable[[Desk], str], chance: random.Random) -> bool:
        desks = self._desks()
        if not desks:
            raise Away
        refusal = write(desks[chance.choice(sorted(desks))])
        if refusal:
            with self._lock:
                self.tally.refused[f"{what}: {refusal}"] += 1
        return not refusal

    def _looks(self, guest: str) -> list[Sight]:
        found = []
        for desk in self._desks().values():
            try:
                sight = desk.look(self.vector(guest))
            except Away:
                continue
            with self._lock:
                self.tally.searches += 1
                if sight.refused:
                    self.tally.unanswered[sight.refused] += 1
                    continue
                self.tally.stale += not sight.sure
            found.append(sight)
        return found

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.tally, what, getattr(self.tally, what) + 1)

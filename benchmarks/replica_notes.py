"""What replicas noted, a file each, and what follows from it: who ran which stream when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Frames come every 0.1 s; a run of them without a longer gap is one stretch in which a replica ran a stream.
GAP_S = 0.8


@dataclass(frozen=True)
class Stretch:
    """A replica ran a stream for a while; seconds of the monotonic clock."""

    stream: str
    pid: int
    begin: float
    end: float


class ReplicaNotes:
    """The files NAME-PID of a folder, as replicas of ``benchmarks.redis_replica`` write them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def notes(self, kind: str) -> list[tuple[int, list[str]]]:
        """What all replicas that ever ran noted: their process ids and the words of each line."""
        found = []
        for file in self.folder.glob("*-*"):
            if file.is_file() and not file.suffix:
                pid = int(file.name.rpartition("-")[2])
                found += [(pid, words[1:]) for line in file.read_text("utf-8").splitlines() if (words := line.split())[0] == kind]
        return found

    def stretches(self) -> list[Stretch]:
        """Who ran what when, in order of time."""
        frames: dict[tuple[str, int], list[float]] = {}
        for pid, (stream, at) in self.notes("frame"):
            frames.setdefault((stream, pid), []).append(float(at))
        found = []
        for (stream, pid), times in frames.items():
            begin = last = times[0]
            for moment in [*times[1:], float("inf")]:
                if moment - last > GAP_S:
                    found.append(Stretch(stream, pid, begin, last))
                    begin = moment
                last = moment
        return sorted(found, key=lambda one: one.begin)


def overlaps(stretches: list[Stretch]) -> list[tuple[Stretch, Stretch]]:
    """Pairs in which two replicas ran one stream at once."""
    found = []
    for number, one in enumerate(stretches):
        found += [(one, two) for two in stretches[number + 1 :] if two.stream == one.stream and two.pid != one.pid and two.begin < one.end]
    return found


def gaps(stretches: list[Stretch], kills: list[float], end: float) -> list[float]:
    """How long each stream did not run at a time, counted from the last kill within."""
    found = []
    for stream in {one.stream for one in stretches}:
        own = [one for one in stretches if one.stream == stream]
        last = own[0].end
        for begin, after in [*((one.begin, one.end) for one in own[1:]), (end, end)]:
            found.append(begin - max([last, *(kill for kill in kills if last < kill < begin)]))
            last = max(last, after)
    return found

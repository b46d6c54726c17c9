"""Labeled Faces in the Wild: its images, verification pairs and gallery, and its people in halves.

The folder holds ``images/PERSON/PERSON_0001.jpg`` (deep-funneled, 250×250), ``pairs.tsv`` (image,
image, 1 for the same person, the official folds one after another) and ``gallery.txt`` (the images
of the enrolled people, the first image of each person enrols).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

PAIRS_A_FOLD = 600


@dataclass(frozen=True)
class Lfw:
    """``images`` are paths relative to ``folder``/images; everything else counts in their indices.

    ``pairs`` is P×2 images, ``same`` P booleans, ``fold`` P numbers of the official fold.
    ``enrolled`` holds the first image of each gallery person, ``probes`` the gallery's others.
    """

    folder: Path
    images: tuple[str, ...]
    pairs: Indices
    same: Mask
    fold: Indices
    enrolled: Indices
    probes: Indices

    @classmethod
    def read(cls, folder: Path, *, people: int | None = None, pairs: int | None = None) -> Lfw:
        """Read the data set, or a fixed part of it.

        ``people`` keeps the first that many gallery people and as many strangers (people who are
        not in the gallery), ``pairs`` about that many pairs, evenly spread over the folds.
        """
        rows = [line.split("\t") for line in (folder / "pairs.tsv").read_text("utf-8").splitlines()]
        numbered = list(enumerate(rows))
        if pairs is not None:
            numbered = numbered[:: max(1, len(rows) // pairs)]
        gallery = (folder / "gallery.txt").read_text("utf-8").split()
        names = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.jpg"))
        if people is not None:
            gallery, names = _first_people(gallery, names, people, {name for _, row in numbered for name in row[:2]})
        index = {name: position for position, name in enumerate(names)}
        firsts = {_person(name): index[name] for name in reversed(gallery)}
        enrolled = np.array(sorted(firsts.values()), np.intp)
        probes = np.setdiff1d(np.array([index[name] for name in gallery], np.intp), enrolled)
        return cls(
            folder,
            tuple(names),
            np.array([(index[row[0]], index[row[1]]) for _, row in numbered], np.intp).reshape(-1, 2),
            np.array([row[2] == "1" for _, row in numbered], np.bool_),
            np.array([number // PAIRS_A_FOLD for number, _ in numbered], np.intp),
            enrolled,
            probes,
        )

    def path(self, image: int) -> Path:
        """The file of an image."""
        return self.folder / "images" / self.images[image]

    @cached_property
    def person(self) -> Indices:
        """For each image the number of its person."""
        _, numbers = np.unique([_person(name) for name in self.images], return_inverse=True)
        return numbers.astype(np.intp)

    @cached_property
    def strangers(self) -> Indices:
        """Every image of the people of whom nothing is enrolled."""
        return np.flatnonzero(~np.isin(self.person, self.person[self.enrolled]))

    @cached_property
    def half(self) -> Indices:
        """For each image 0 or 1: a fixed random half of the gallery people and one of the strangers."""
        draw = np.random.default_rng(0)
        half = np.zeros(self.person.max() + 1, np.intp)
        for people in (np.unique(self.person[self.enrolled]), np.unique(self.person[self.strangers])):
            half[draw.permutation(people)[: len(people) // 2]] = 1
        return half[self.person]


def _person(name: str) -> str:
    return name.split("/", 1)[0]


def _first_people(gallery: list[str], names: list[str], people: int, always: set[str]) -> tuple[list[str], list[str]]:
    enrolled = sorted({_person(name) for name in gallery})
    kept = set(enrolled[:people])
    strangers = sorted({_person(name) for name in names} - set(enrolled))[:people]
    gallery = [name for name in gallery if _person(name) in kept]
    return gallery, sorted({*gallery, *always, *(name for name in names if _person(name) in strangers)})

"""Enrols people for ever and says which were acknowledged; to be killed at any moment.

Started once with the path of a gallery file. For each line on its input it forks a child that
opens the gallery, enrols, and prints the id of each acknowledged person; the child's process id
comes first, "ended" last. Forking spares the imports, so that many rounds are quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import zlib
from pathlib import Path

import numpy as np

from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import AddTemplate, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.errors import Conflict
from face_server.gallery.sqlite import SqliteGallery
from face_server.workers import Workers

MODEL = ModelId("toy", "00", 1, 32)
TEMPLATES = 3
CROP = b"\xff\xd8" + bytes(3_000)


def say(word: object) -> None:
    """One line, written at once or not at all."""
    os.write(1, f"{word}\n".encode())


async def enrol_for_ever(path: Path, round_name: str) -> None:
    """Enrol one person after the other, two at a time."""
    with Workers(2) as workers:
        gallery = await SqliteGallery.open(path, workers, SystemClock())
        with contextlib.suppress(Conflict):
            await gallery.create_collection(Collection("all", MODEL))
        await asyncio.gather(*(enrol_chain(gallery, f"{round_name}-{chain}") for chain in "ab"))


async def enrol_chain(gallery: SqliteGallery, chain: str) -> None:
    """Enrol people with three templates and crops each."""
    for number in itertools.count():
        person = f"{chain}-{number}"
        vectors = np.random.default_rng(zlib.crc32(person.encode())).standard_normal((TEMPLATES, MODEL.dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shown = [Template(f"{person}-{index}", person, 0.5, 0.0) for index in range(TEMPLATES)]
        added = [AddTemplate(TemplateRecord(one, Embedding(vector, 1.0, MODEL), CROP)) for one, vector in zip(shown, vectors, strict=True)]
        await gallery.apply("all", [PutIdentity(Identity(person, "Somebody")), *added])
        say(person)


def main() -> None:
    """Fork a child a line of input."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            say(os.getpid())
            asyncio.run(enrol_for_ever(Path(sys.argv[1]), line.strip()))
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()

"""Identification against bare FAISS in the same run, memory, and the start of a large gallery.

    python -m benchmarks.search [--sizes 100000 1000000] [--out docs/benchmarks.md]

Random unit vectors of 128 dimensions, one template a person. Ours goes the whole way of a search
through the gallery's port, names included; bare FAISS is one flat half-float index.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import uvloop

from benchmarks.report import machine, replace_section, table
from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import AddTemplate, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.image import Floats
from face_server.gallery.sqlite import SqliteGallery, SqliteOptions
from face_server.workers import Workers

MODEL = ModelId("random", "0" * 12, 1, 128)
COLLECTION = "people"
ROUNDS = 300
FEW = 100
CHANGES_AT_ONCE = 5000


def unit_vectors(count: int, seed: int) -> Floats:
    """Random unit rows, count×128 float32."""
    vectors = np.random.default_rng(seed).standard_normal((count, MODEL.dimension), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def fill(path: Path, vectors: Floats) -> float:
    """Store one person a vector; templates a second."""
    with Workers() as workers:
        gallery = await SqliteGallery.open(path, workers, SystemClock(), SqliteOptions())
        await gallery.create_collection(Collection(COLLECTION, MODEL))
        began = time.perf_counter()
        for start in range(0, len(vectors), CHANGES_AT_ONCE // 2):
            changes: list[PutIdentity | AddTemplate] = []
            for row in range(start, min(start + CHANGES_AT_ONCE // 2, len(vectors))):
                person = f"p{row:07}"
                record = TemplateRecord(Template(f"t{row:07}", person, 1.0, 0.0), Embedding(vectors[row], 1.0, MODEL))
                changes += [PutIdentity(Identity(person, f"Person {row}")), AddTemplate(record)]
            await gallery.apply(COLLECTION, changes)
        rate = len(vectors) / (time.perf_counter() - began)
        await gallery.close()
    return rate


async def measure(path: Path, count: int) -> dict[str, float]:
    """Open the gallery at ``path`` and let it and bare FAISS search in turn, one probe at a time."""
    with Workers() as workers:
        with tempfile.TemporaryDirectory() as folder:
            # Code of libraries, thread stacks and the like: what a gallery of a few people takes as well.
            await fill(Path(folder) / "few.sqlite", unit_vectors(FEW, seed=2))
            few = await SqliteGallery.open(Path(folder) / "few.sqlite", workers, SystemClock(), SqliteOptions())
            await few.search(COLLECTION, _one(unit_vectors(1, seed=7)[0]), limit=5)
            await few.close()
        probes = unit_vectors(ROUNDS, seed=7)
        before = resident_bytes()
        began = time.perf_counter()
        gallery = await SqliteGallery.open(path, workers, SystemClock(), SqliteOptions())
        await gallery.search(COLLECTION, _one(probes[0]), limit=5)
        started = time.perf_counter() - began
        resident = resident_bytes() - before
        vectors = unit_vectors(count, seed=1)
        bare = faiss.IndexScalarQuantizer(MODEL.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        bare.add(vectors)
        del vectors
        # FAISS scans for one probe with one thread whatever it is allowed; a second one would only spin, here and into our turn.
        faiss.omp_set_num_threads(1)
        ours_ms, bare_ms, ratios = [], [], []
        for probe in probes:
            began = time.perf_counter()
            bare.search(probe[None], 5)
            middle = time.perf_counter()
            await gallery.search(COLLECTION, _one(probe), limit=5)
            ended = time.perf_counter()
            bare_ms.append(1000 * (middle - began))
            ours_ms.append(1000 * (ended - middle))
            ratios.append((ended - middle) / (middle - began))
        index_bytes = gallery.index_bytes
        await gallery.close()
    matrix = count * MODEL.dimension * 2
    return {
        "start": started,
        "bare": statistics.median(bare_ms),
        "ours": statistics.median(ours_ms),
        "ratio": statistics.median(ratios),
        "index": index_bytes / matrix,
        "resident": resident / matrix,
    }


def _one(probe: Floats) -> Embeddings:
    return Embeddings(probe[None], np.ones(1, np.float32), MODEL)


async def main_async(arguments: argparse.Namespace) -> None:
    """Fill, measure and print the section."""
    rows = []
    for count in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gallery.sqlite"
            rate = await fill(path, unit_vectors(count, seed=1))
            command = [sys.executable, "-m", "benchmarks.search", "--measure", str(path), "--sizes", str(count)]
            os.sync()  # the disk's work for the filling must not fall into the measurement
            # In a process of its own: what filling left behind must not count as memory of the index.
            child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            output, _ = await child.communicate()
            start, bare, ours, ratio, index, resident = (float(word) for word in output.decode().split())
        rows.append(
            [
                f"{count:,}",
                f"{bare:.2f}",
                f"{ours:.2f}",
                f"**{ratio:.2f}**",
                f"{index:.2f}",
                f"**{resident:.2f}**",
                f"**{start:.1f}**",
                f"{rate:,.0f}",
            ]
        )
    head = ["templates", "bare FAISS ms", "identify ms", "ratio", "index / matrix", "memory / matrix", "start s", "stored /s"]
    section = f"## Search\n\n{_METHOD.format(machine=machine())}\n\n{table(head, rows)}\n"
    sys.stdout.write(section)
    if arguments.out:
        replace_section(arguments.out, "search", section)


_METHOD = """One probe against random 128-dimensional templates, one a person; medians of alternating searches. *Bare FAISS*: a flat
half-float index, row numbers only, allowed one thread: FAISS scans for one probe with one anyway, and what it would leave spinning
would slow down whoever searches next. *Identify*: through the gallery, people with names and templates, checked against the store's
revision; from 65,536 templates on by two threads. *Memory*: growth of the process from before opening the gallery to after its first
search, over the bytes of the half-float matrix; a gallery of 100 people was opened, searched and closed before, so that code of
libraries and thread stacks do not count. *Start*: until the first answer. *Stored*: in transactions of 2,500 people.
A search costs about half a millisecond beside the scan, whatever the size: a fifth of a millisecond to hand it to a worker and back,
the rest for the store's revision, names and the ranking of people. Caches are cold by then: each scan is
larger than they are. {machine}."""


def main() -> None:
    """Measure galleries of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        figures = uvloop.run(measure(arguments.measure, arguments.sizes[0]))  # as the server does
        sys.stdout.write(" ".join(str(value) for value in figures.values()))
    else:
        asyncio.run(main_async(arguments))


if __name__ == "__main__":
    main()

"""Large blocks of memory go back to the system when they are freed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import numpy as np
from face_server.memory import return_large_blocks

def resident_mb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

if {asked}:
    assert return_large_blocks()
for _ in range(3):
    # A freed block of 24 MiB lifts glibc's own threshold to its size: what comes afterwards leaves holes.
    np.ones(24 << 20, np.uint8)
before = resident_mb()
blocks = [np.ones(3 << 20, np.uint8) for _ in range(60)]
keep = [np.ones(40_000, np.uint8) for _ in range(60)]
pictures = []
for number in range(60):
    pictures.append(np.ones(3 << 20, np.uint8))
    keep.append(np.ones(40_000, np.uint8))
del blocks, pictures
print(resident_mb() - before)
"""


def grown_mb(*, asked: bool) -> float:
    """How much a process has grown after it freed many pictures between small things that it keeps."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.replace("{asked}", str(asked))], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_pictures_between_small_things_are_given_back():
    """What is left after 360 MB of pictures were freed is what was kept, a few MB; by itself the C library keeps most of it."""
    assert grown_mb(asked=True) < 20
    assert grown_mb(asked=False) > 100

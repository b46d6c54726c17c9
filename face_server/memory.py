"""Memory that is given back: how the C library treats large blocks."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 21


def return_large_blocks() -> bool:
    """Let every freed block of 2 MiB and more go back to the system at once; False where the C library is not glibc.

    By itself glibc stops doing so after the first of them were freed (mallopt(3), M_MMAP_THRESHOLD),
    and pictures of many sizes then leave holes: a server with eight cameras, of which one after the
    other reconnects, grew from 570 to 690 MB in four minutes. From 1 MiB on it would be felt in
    requests, whose pictures are smaller than those of cameras.
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

"""Blocks of a region of memory, in powers of two, that join again when both halves are free."""

from __future__ import annotations


def power_of_two(count: int) -> int:
    """The least power of two that is at least ``count``."""
    return 1 << max(0, count - 1).bit_length()


class BuddyBlocks:
    """Divides ``size`` bytes into blocks of at least ``smallest`` bytes; both are powers of two."""

    def __init__(self, size: int, smallest: int) -> None:
        self.size = size
        self._smallest = smallest
        self._free: dict[int, set[int]] = {size: {0}}
        self._taken: dict[int, int] = {}

    @property
    def taken(self) -> int:
        """How many blocks are in use."""
        return len(self._taken)

    def take(self, count: int) -> int | None:
        """The offset of a block for ``count`` bytes; None where none is free."""
        wanted = max(self._smallest, power_of_two(count))
        size = wanted
        while not self._free.get(size):
            size *= 2
            if size > self.size:
                return None
        offset = self._free[size].pop()
        while size > wanted:
            size //= 2
            self._free.setdefault(size, set()).add(offset + size)
        self._taken[offset] = size
        return offset

    def give(self, offset: int) -> None:
        """Take back the block at ``offset``."""
        size = self._taken.pop(offset)
        while size < self.size and (offset ^ size) in self._free.get(size, ()):
            self._free[size].remove(offset ^ size)
            offset &= ~size
            size *= 2
        self._free.setdefault(size, set()).add(offset)

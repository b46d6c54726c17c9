"""Running independent calls side by side, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def map_bounded(function: Callable[[T], Awaitable[R]], items: Sequence[T], limit: int) -> list[R]:
    """``function`` of every item, in order, at most ``limit`` at once.

    The first error cancels the others and is raised as it is, not inside a group.
    """
    if len(items) == 1:
        return [await function(items[0])]
    slots = asyncio.Semaphore(limit)

    async def limited(item: T) -> R:
        async with slots:
            return await function(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]

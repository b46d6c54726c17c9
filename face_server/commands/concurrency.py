"""Work on many files side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# While one item waits for the disk or the store, others keep all cores busy.
_EXTRA_PLACES = 2


async def side_by_side(
    items: Sequence[Item], work: Callable[[Item], Awaitable[Result]], cores: int, done: Callable[[Result], None]
) -> list[Result]:
    """``work`` on every item, a little more of them at a time than there are ``cores``; results in the order of ``items``.

    ``done`` is told each result as it comes. The first error that ``work`` raises ends the rest and is raised.
    """
    results: dict[int, Result] = {}

    async def worker(queue: Iterator[tuple[int, Item]]) -> None:
        for index, item in queue:
            results[index] = await work(item)
            done(results[index])

    queue = iter(enumerate(items))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(items), cores + _EXTRA_PLACES)):
                group.create_task(worker(queue))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [results[index] for index in range(len(items))]

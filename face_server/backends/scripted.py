"""A backend that answers as it is told: for tests and for trying things without weights."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from face_server.backends.contract import check_inputs
from face_server.domain.network import Network
from face_server.domain.ports import Runner, Tensors
from face_server.errors import NotFound, Unavailable

Answer = Tensors | Callable[[Tensors], Tensors]
"""Canned outputs, or a function from inputs to outputs (called on the event loop: keep it short)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One ``infer`` as it came in."""

    network: str
    inputs: Tensors


class ScriptedBackend:
    """Answers ``infer`` from ``answers`` after ``delay_s``.

    Inputs of the networks in ``contracts`` are checked as real backends check them. The last
    10,000 calls are kept in ``calls``.
    """

    description = "scripted answers"

    def __init__(self, answers: Mapping[str, Answer], *, contracts: Sequence[Network] = (), delay_s: float = 0.0) -> None:
        self._answers = dict(answers)
        self._contracts = {network.name: network for network in contracts}
        self._failures: deque[tuple[str, Exception]] = deque()
        self._open = asyncio.Event()
        self._open.set()
        self._closed = False
        self.delay_s = delay_s
        self.calls: deque[Call] = deque(maxlen=10_000)
        self.running = 0
        """Calls that have started and have no answer yet."""

    def fail(self, network: str, error: Exception, *, times: int = 1) -> None:
        """Raise ``error`` from the next ``times`` calls of ``network``."""
        self._failures.extend([(network, error)] * times)

    def block(self) -> None:
        """Hold back every answer until ``release``."""
        self._open.clear()

    def release(self) -> None:
        """Let held answers go."""
        self._open.set()

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """Record the call and answer it; see ``Backend.infer``."""
        if network not in self._answers:
            raise NotFound(f"there is no network {network!r}; scripted: {', '.join(sorted(self._answers)) or 'none'}")
        if network in self._contracts:
            check_inputs(self._contracts[network], inputs)
        if self._closed:
            raise Unavailable("the scripted backend is closed")
        self.calls.append(Call(network, dict(inputs)))
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
            await self._open.wait()
        finally:
            self.running -= 1
        self._raise_scripted(network)
        answer = self._answers[network]
        return answer(inputs) if callable(answer) else answer

    def runner(self, network: str) -> Runner | None:  # noqa: ARG002 - the same for all
        """None: scripts are awaited."""
        return None

    async def ready(self, network: str) -> bool:
        """Whether an answer is scripted for ``network``."""
        return network in self._answers and not self._closed

    async def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _raise_scripted(self, network: str) -> None:
        for index, (name, error) in enumerate(self._failures):
            if name == network:
                del self._failures[index]
                raise error

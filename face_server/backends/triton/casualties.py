"""Models of one server whose processes have died.

Triton neither replaces the process of an instance of its Python backend that has ended, nor stops
calling the model ready: requests that the instance would have answered fail after a second. Only
requests tell, so each model that met this has a circuit of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from face_server.backends.triton.breaker import Breaker
from face_server.backends.triton.errors import Failed, dead

_log = logging.getLogger(__name__)


class Casualties:
    """Which models of the server at ``address`` to leave alone; ``new_breaker`` makes the circuit of one.

    A model some of whose processes live is used: its successes keep the circuit closed.
    """

    def __init__(self, address: str, new_breaker: Callable[[], Breaker]) -> None:
        self._address = address
        self._new_breaker = new_breaker
        self._breakers: dict[str, Breaker] = {}

    def __contains__(self, model: str) -> bool:
        """Whether calls of ``model`` met nothing but dead processes lately, and it is too early to try another."""
        breaker = self._breakers.get(model)
        return breaker is not None and not breaker.closed and not breaker.probe_due

    def retry_after_s(self, model: str) -> float:
        """Seconds until ``model`` is tried again."""
        breaker = self._breakers.get(model)
        return 0.0 if breaker is None else breaker.retry_after_s

    def clear(self) -> None:
        """The server was started anew, and all processes with it."""
        self._breakers.clear()

    @contextlib.contextmanager
    def watching(self, model: str) -> Iterator[None]:
        """Around a call of ``model``: draws the consequences of how it ends."""
        breaker = self._breakers.get(model)
        probes = breaker is not None and breaker.begin_probe()
        died = answered = False
        try:
            yield
            answered = True
        except Failed as failed:
            died, answered = failed.fault.instance_dead, failed.fault.answered
            raise
        finally:
            if died and breaker is None:
                breaker = self._breakers[model] = self._new_breaker()
            if breaker is not None:
                self._judge(model, breaker, probes=probes, died=died, answered=answered)

    def _judge(self, model: str, breaker: Breaker, *, probes: bool, died: bool, answered: bool) -> None:
        if probes and answered:
            breaker.probe_succeeded()
            _log.info("model %r on Triton at %s answers again", model, self._address)
        elif probes:
            breaker.trip()
        elif answered:
            breaker.call_succeeded()
        elif died:
            closed = breaker.closed
            breaker.call_failed()
            if closed is not breaker.closed:
                _log.error("%s", dead(model, self._address).message)

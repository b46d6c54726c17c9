"""One Triton server: what is known of it, and calls to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import grpc

from face_server.backends.triton import errors
from face_server.backends.triton.breaker import Breaker
from face_server.backends.triton.casualties import Casualties
from face_server.backends.triton.connection import Connection
from face_server.backends.triton.errors import Failed, Fault, RegionLost
from face_server.backends.triton.expectations import Expected
from face_server.backends.triton.inspection import inspect, lives
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.backends.triton.payload import Payload
from face_server.backends.triton.registrations import Registrations
from face_server.domain.ports import Clock
from face_server.errors import ConfigurationError, FaceServerError, Unavailable
from face_server.workers import Workers

_log = logging.getLogger(__name__)

_INSPECT_EVERY_S: Final = 15.0
"""How often contracts are compared again although the connection stood: a model may have been loaded anew."""

_RECHECK_S: Final = 1.0
"""How often a server is looked at that lives, but lacks a model or breaks a contract."""


class Standing(StrEnum):
    """``checking``: will soon be one of the others; ``wrong``: lives, but runs something else than it should."""

    CHECKING = "checking"
    USABLE = "usable"
    AWAY = "away"
    WRONG = "wrong"


@dataclass(eq=False, slots=True)
class _Attempt:
    call: grpc.aio.UnaryUnaryCall[bytes, bytes]
    given_up: bool = False


class Endpoint:
    """Watches one server in a task of its own and sends calls to it while it is found right.

    After every loss of the connection the models are compared with what is ``expected`` before the
    next inference: a server that was started anew may run other ones. ``changed`` is called
    whenever the standing may have changed.
    """

    def __init__(
        self,
        address: str,
        connection: Connection,
        expected: Sequence[Expected],
        options: TritonOptions,
        workers: Workers,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.address = address
        self.version = ""
        self.in_flight = 0
        self.shares_memory = False
        self.missing: frozenset[str] = frozenset()
        self.batch_limits: dict[str, int] = {}
        self.difference: FaceServerError | None = None
        self._connection = connection
        self._expected = {one.model: one for one in expected}
        self._options = options
        self._clock = clock
        self._changed = changed
        self._breaker = self._new_breaker()
        self._fair_s = min(options.timeout_s / 2, options.connect_timeout_s)
        self._casualties = Casualties(address, self._new_breaker)
        self._registrations = Registrations(connection, workers)
        self._attempts: set[_Attempt] = set()
        self._verified = False
        self._cause = "it has not answered yet"
        self._away_since_s: float | None = None
        self._inspect_at_s = 0.0
        self._wake = asyncio.Event()
        self._closed = False
        self._keeper = asyncio.create_task(self._keep(), name=f"triton {address}")

    @property
    def standing(self) -> Standing:
        """What it is good for now. Notices a connection that was lost while nothing was asked."""
        if not self._breaker.closed:
            return Standing.AWAY
        if self.difference is not None:
            return Standing.WRONG
        if self._verified and not self._connection.ready:
            self._doubt()
        return Standing.USABLE if self._verified else Standing.CHECKING

    @property
    def reason(self) -> str:
        """Why it is not usable, as a sentence."""
        if self.difference is not None and self._breaker.closed:
            return self.difference.message
        return f"Triton at {self.address} is away: {self._cause}"

    @property
    def retry_after_s(self) -> float:
        """When it will be looked at again."""
        return self._breaker.retry_after_s or _RECHECK_S

    def serves(self, model: str) -> bool:
        """Whether a call of ``model`` may be sent to it now."""
        return self.standing is Standing.USABLE and model not in self.missing and model not in self._casualties

    def refusal(self, model: str) -> Unavailable:
        """Why ``serves`` says no."""
        if self.standing is not Standing.USABLE:
            return Unavailable(self.reason, retry_after_s=self.retry_after_s)
        if model in self.missing:
            return Unavailable(errors.missing(model, self.address, expected=model in self._expected).message, retry_after_s=_RECHECK_S)
        return Unavailable(errors.dead(model, self.address).message, retry_after_s=self._casualties.retry_after_s(model))

    async def infer(self, payload: Payload, timeout_s: float) -> bytes:
        """Send ``payload``; the encoded answer. Raises Failed, and InputTooLarge before anything is sent."""
        self.in_flight += 1
        try:
            with self._casualties.watching(payload.model):
                answer = await self._infer(payload, self._clock.monotonic() + timeout_s)
        finally:
            self.in_flight -= 1
        self._breaker.call_succeeded()
        return answer

    async def close(self) -> None:
        """End the watch and every call. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._give_up_calls()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if self._verified and self._connection.ready:
            # A server that stands still is not waited for, region by region.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.connect_timeout_s):
                    await self._registrations.withdraw()
        await self._connection.close()

    def _new_breaker(self) -> Breaker:
        chosen = self._options
        return Breaker(self._clock, failures=chosen.failures_to_open, pause_s=chosen.pause_s, max_pause_s=chosen.max_pause_s)

    async def _infer(self, payload: Payload, deadline_s: float) -> bytes:
        if self.shares_memory and (shared := await payload.shared_message()) is not None:
            for _ in range(2):
                try:
                    await self._registrations.ensure(shared.region)
                except grpc.aio.AioRpcError as error:
                    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                        fault = self._note(error, payload.model, self._options.connect_timeout_s)
                        # Nothing was asked of the model yet.
                        raise Failed(replace(fault, elsewhere=True)) from error
                    _log.warning("Triton at %s does not take shared memory: %s", self.address, errors.cause_of(error))
                    break
                try:
                    return await self._attempt(shared.data, payload.model, deadline_s)
                except RegionLost:
                    self._registrations.lost(shared.region)
        return await self._attempt(await payload.message(), payload.model, deadline_s)

    async def _attempt(self, message: bytes, model: str, deadline_s: float) -> bytes:
        """One call. It ends early when the server is found to be away, and its caller may turn to another."""
        timeout_s = max(0.001, deadline_s - self._clock.monotonic())
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            attempt = _Attempt(self._connection.infer(message, timeout_s))
        except grpc.aio.UsageError as error:
            raise Failed(Fault(Unavailable(f"the connection to Triton at {self.address} is closed"), elsewhere=True)) from error
        self._attempts.add(attempt)
        try:
            return await attempt.call
        except grpc.aio.AioRpcError as error:
            raise Failed(self._note(error, model, timeout_s)) from error
        except asyncio.CancelledError:
            if not attempt.given_up or (task is not None and task.cancelling() > cancelled):
                raise
            raise Failed(Fault(Unavailable(self.reason, retry_after_s=self.retry_after_s), elsewhere=True)) from None
        finally:
            self._attempts.discard(attempt)

    def _note(self, error: grpc.aio.AioRpcError, model: str, timeout_s: float) -> Fault:
        """Draw the consequences of a failed call."""
        fault = errors.read(error, model, self.address, expected=model in self._expected, timeout_s=timeout_s)
        if fault.endpoint and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_s < self._fair_s:
            # Its caller had waited elsewhere for most of its time: that says nothing of the server.
            fault = replace(fault, endpoint=False)
        if fault.endpoint:
            self._cause = errors.cause_of(error)
            self._breaker.call_failed()
            if not self._breaker.closed:
                self._went_away()
            self._wake.set()
            self._changed()
        if fault.model_missing and model in self._expected and model not in self.missing:
            self.missing |= {model}
            self._wake.set()
        return fault

    def _doubt(self) -> None:
        """Compare contracts before anything else is asked of the server."""
        self._verified = False
        self._registrations.all_lost()
        self._casualties.clear()
        self._wake.set()

    async def _keep(self) -> None:
        """Look after the server for as long as it is wanted."""
        while True:
            self._wake.clear()
            if self._breaker.closed or self._breaker.begin_probe():
                await self._look()
                self._changed()
            await self._pause()

    async def _pause(self) -> None:
        if not self._breaker.closed:
            await asyncio.sleep(self._breaker.retry_after_s)
            return
        settled = self._verified and not self.missing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.probe_interval_s if settled else _RECHECK_S):
                await self._wake.wait()

    async def _look(self) -> None:
        """Ask whether the server lives, or whether all of it is right where that is not known."""
        due = self._clock.monotonic() >= self._inspect_at_s
        try:
            if due or self.missing or not self._verified or not self._connection.ready:
                await self._inspect()
            else:
                await lives(self._connection)
        except grpc.aio.AioRpcError as error:
            self._found_away(errors.cause_of(error))
        except FaceServerError as error:
            self._breaker.probe_succeeded()
            self._found_wrong(error)
        else:
            self._breaker.probe_succeeded()
            self._found_well()

    async def _inspect(self) -> None:
        """Compare everything with what is expected. Raises what ``inspect`` raises."""
        found = await inspect(self._connection, self.address, self._expected.values())
        self.version = found.version
        self.batch_limits.update(found.batch_limits)
        if new := found.missing - self.missing:
            _log.warning("Triton at %s has not loaded %s: calls of it fail until it has", self.address, ", ".join(sorted(new)))
        self.missing = found.missing
        if not self._verified:
            await self._find_memory()
        self._inspect_at_s = self._clock.monotonic() + _INSPECT_EVERY_S

    async def _find_memory(self) -> None:
        """Find out whether the server shares memory with this process."""
        mode = self._options.shared_memory
        self._registrations.all_lost()
        if mode in {SharedMemory.AUTO, SharedMemory.SYSTEM}:
            self.shares_memory = await self._registrations.sees_this_host()
            if self.shares_memory:
                await self._registrations.forget_the_dead()
            elif mode is SharedMemory.SYSTEM:
                raise ConfigurationError(
                    f"Triton at {self.address} does not see this host's shared memory: let both share /dev/shm, or permit the network"
                )
        else:
            self.shares_memory = mode is SharedMemory.CUDA

    def _found_well(self) -> None:
        if not self._connection.ready:
            # It went away again while it was looked at.
            self._doubt()
            return
        if self._away_since_s is not None:
            _log.info("Triton at %s is back after %.1f s", self.address, self._clock.monotonic() - self._away_since_s)
        elif self.difference is not None:
            _log.info("Triton at %s runs what it should again", self.address)
        self._away_since_s = self.difference = None
        self._verified = True

    def _found_wrong(self, difference: FaceServerError) -> None:
        if self.difference is None or self.difference.message != difference.message:
            _log.error("%s", difference.message)
        self.difference = difference
        self._away_since_s = None
        self._verified = False

    def _found_away(self, cause: str) -> None:
        self._cause = cause
        self._breaker.trip()
        self._verified = False
        self.difference = None
        self._registrations.all_lost()
        self._went_away()
        self._give_up_calls()

    def _went_away(self) -> None:
        if self._away_since_s is None:
            self._away_since_s = self._clock.monotonic()
            _log.warning("Triton at %s is away: %s", self.address, self._cause)

    def _give_up_calls(self) -> None:
        for attempt in self._attempts:
            attempt.given_up = True
            attempt.call.cancel()

"""The streams of one replica among several: claimed, renewed, lost and given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from face_server.domain.ports import Clock
from face_server.domain.replicas import Claim, Meeting, ReplicaNote, Standing
from face_server.domain.stream_ports import Ownership
from face_server.domain.streams import StreamState, StreamStatus
from face_server.errors import FaceServerError, Unavailable
from face_server.streams.patience import spawn
from face_server.streams.spreading import Spreading, SpreadOptions

_log = logging.getLogger(__name__)

_FORMER = 4_096
_LATE_S = 1.5


@dataclass(frozen=True, slots=True)
class TenancyOptions:
    """``name`` and ``url`` are told to the other replicas; ``room`` is how many streams this one runs at most (0: none).

    Every ``beat_s`` claims are renewed; every ``follow_s``, and whenever one of the replicas has changed them, registered streams
    are read again.
    """

    name: str = ""
    url: str = ""
    room: int = 64
    beat_s: float = 1.0
    follow_s: float = 15.0
    spread: SpreadOptions = field(default_factory=SpreadOptions)


@dataclass(frozen=True, slots=True)
class Household:
    """What a tenancy acts upon: ``begin`` runs a stream here, ``leave`` ends it and forgets it, ``restart`` connects it anew.

    ``statuses`` are those of the streams that run here, ``follow`` reads the registered streams again.
    """

    begin: Callable[[str], Awaitable[None]]
    leave: Callable[[str], Awaitable[None]]
    restart: Callable[[str], Awaitable[None]]
    statuses: Callable[[], Iterable[StreamStatus]]
    follow: Callable[[], Awaitable[None]]


class Tenancy:
    """Keeps the claims of one replica; ``Fence`` for its journal.

    While whoever keeps the claims (Redis) is away, what runs here goes on: nobody else can claim
    it either. Nobody knows who is merely cut off, though. So an owner learns at its first contact, within a second of it,
    that a stream was taken meanwhile, and stops it at once; until then its events are doubtful (``standing``).
    A stream whose owner vanished is taken over ``lease_s`` + ``grace_s`` + two beats after its last renewal at the latest: 8.5 s.

    New replicas get their share little by little: see ``SpreadOptions``. What has come to its end is not given back, it would begin anew.
    """

    def __init__(
        self, ownership: Ownership, clock: Clock, options: TenancyOptions, house: Household, chance: random.Random | None = None
    ) -> None:
        self._ownership = ownership
        self._clock = clock
        self._options = options
        self._house = house
        # Chance spreads replicas over streams; nobody must not be able to guess it.
        self._spreading = Spreading(options.spread, chance or random.Random())  # noqa: S311 - see above
        self._wanted: set[str] = set()
        self._claims: dict[str, Claim] = {}
        self._renewed_at: dict[str, float] = {}
        self._former: dict[str, Standing] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._followed_at = float("-inf")
        self._met_at = float("-inf")
        self._meeting = Meeting()
        self._restarts: dict[str, int] = {}
        self.away = ""
        """Why the other replicas cannot be seen; empty while they can."""

    @property
    def others(self) -> tuple[ReplicaNote, ...]:
        """The other replicas, as they were a moment ago."""
        return self._meeting.others

    def has(self, stream_id: str) -> bool:
        """Whether a stream is this replica's."""
        return stream_id in self._claims

    def want(self, stream_id: str) -> None:
        """Some replica must run this stream."""
        self._wanted.add(stream_id)

    def want_not(self, stream_id: str) -> None:
        """No replica must run this stream."""
        self._wanted.discard(stream_id)

    def standing(self, stream_id: str) -> Standing:
        """See ``Fence.standing``."""
        claim = self._claims.get(stream_id)
        if claim is None:
            return self._former.get(stream_id, Standing())
        return Standing(claim.token, self._clock.monotonic() - self._renewed_at[stream_id] < self._ownership.lease_s)

    async def superseded_at(self, stream_id: str, token: int) -> float | None:
        """See ``Fence.superseded_at``."""
        return await self._ownership.superseded_at(stream_id, token)

    async def take_new(self, stream_id: str) -> None:
        """Claim a stream that was just switched on, if that is within this replica's share; else another one will."""
        try:
            if self._met_at == float("-inf"):
                await self._meet(self._clock.monotonic())
            if len(self._claims) < self._spreading.share(len(self._wanted), self._options.room):
                await self._take(stream_id, patient=False)
        except Unavailable as error:
            _log.info("stream %s starts when it can be claimed: %s", stream_id, error.message)

    async def give_back(self, stream_id: str, end: Callable[[], Awaitable[None]]) -> None:
        """End a stream that runs here, and let go of it."""
        async with self._turn(stream_id):
            claim = self._claims.get(stream_id)
            try:
                await end()
            finally:
                if claim is not None and self._claims.get(stream_id) is claim:
                    await self._let_go(claim)

    async def run(self) -> None:
        """Keep claims until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.beat()
            except FaceServerError as error:
                self._note_away(error.message)
            except Exception:  # noqa: BLE001 - without its beat a replica would lose every stream
                _log.exception("a look at the other replicas stumbled")
                self._spreading.interrupted()
            passed_s = self._clock.monotonic() - began
            await self._clock.sleep(max(0.1, self._options.beat_s - passed_s))

    async def beat(self) -> None:
        """Renew what this replica has, learn of the others, and take what is due. Unavailable while that cannot be done."""
        now = self._clock.monotonic()
        if now - self._met_at > self._options.beat_s + _LATE_S:
            # Redis was away, or this process stood still: what others did meanwhile was not seen.
            self._spreading.interrupted()
        await self._meet(now)
        if self._meeting_is_late(now):
            return
        self._follow_if_due(now)
        foreign = sorted(stream_id for stream_id in self._wanted if stream_id not in self._claims)
        # One with no room for any stream needs to know of none.
        holds = await self._ownership.holders(foreign) if self._options.room else {}
        now = self._clock.monotonic()
        self._spreading.see({stream_id: hold for stream_id, hold in holds.items() if stream_id in self._wanted}, now)
        mine, streams, room = len(self._claims), len(self._wanted), self._options.room
        for stream_id, patient in self._spreading.to_take(mine=mine, streams=streams, room=room, now=now):
            await self._take(stream_id, patient=patient)
        if self._spreading.gives_back(mine=len(self._claims), streams=streams, room=room, now=now):
            self._hand_over()

    async def close(self) -> None:
        """Let go of every stream; all have been stopped. Idempotent."""
        self._wanted.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._let_go(claim) for claim in list(self._claims.values())))
        await self._ownership.close()

    async def _meet(self, now: float) -> None:
        claims = list(self._claims.values())
        note = ReplicaNote(
            self._ownership.replica, self._options.name, self._options.url, self._options.room, tuple(self._house.statuses())
        )
        meeting = await self._ownership.meet(note, claims)
        self._spreading.meet(meeting.others, now)
        for claim in claims:
            if self._claims.get(claim.stream_id) is not claim:
                continue
            if claim.stream_id in meeting.lost:
                self._lose(claim)
            else:
                self._renewed_at[claim.stream_id] = now
                self._restart_if_told(claim.stream_id, meeting.restarts)
        if meeting.revision != self._meeting.revision:
            self._followed_at = float("-inf")
        self._meeting = meeting
        self._met_at = self._clock.monotonic()
        if self.away:
            _log.info("the other replicas can be seen again")
            self.away = ""

    def _meeting_is_late(self, began: float) -> bool:
        """Whether Redis hung for so long that its owners may have to come back first."""
        late = self._met_at - began > _LATE_S
        if late:
            self._spreading.interrupted()
        return late

    def _note_away(self, reason: str) -> None:
        if not self.away:
            _log.warning("the other replicas cannot be seen, what runs here goes on: %s", reason)
        self.away = reason
        self._spreading.interrupted()

    def _restart_if_told(self, stream_id: str, restarts: Mapping[str, int]) -> None:
        told = restarts.get(stream_id, 0)
        if self._restarts.setdefault(stream_id, told) != told:
            self._restarts[stream_id] = told
            self._spawn(self._house.restart(stream_id), f"restarting {stream_id}")

    def _follow_if_due(self, now: float) -> None:
        if now - self._followed_at >= self._options.follow_s and (self._following is None or self._following.done()):
            self._followed_at = now
            self._following = self._spawn(self._follow(), "following the registered streams")

    async def _follow(self) -> None:
        try:
            await self._house.follow()
        except FaceServerError as error:
            _log.warning("the registered streams cannot be read: %s", error.message)
            self._followed_at = float("-inf")

    async def _take(self, stream_id: str, *, patient: bool) -> None:
        """Claim a stream and run it here."""
        async with self._turn(stream_id):
            if stream_id in self._claims or stream_id not in self._wanted:
                return
            now = self._clock.monotonic()
            claim = await self._ownership.claim(stream_id, patient=patient)
            if claim is None:
                return
            self._claims[stream_id], self._renewed_at[stream_id] = claim, now
            self._former.pop(stream_id, None)
            self._restarts.pop(stream_id, None)
            if patient:
                _log.warning("stream %s is taken over: its owner is gone", stream_id)
            try:
                await self._house.begin(stream_id)
            except FaceServerError as error:
                _log.warning("stream %s cannot run here: %s", stream_id, error.message)
                await self._let_go(claim)

    def _lose(self, claim: Claim) -> None:
        """Somebody else has a stream: stop it at once."""
        _log.warning("stream %s was taken over by another replica and is stopped here", claim.stream_id)
        self._forget(claim, Standing(claim.token, sure=False, lost_at=self._clock.now()))
        self._spawn(self._leave(claim.stream_id), f"leaving {claim.stream_id}")

    async def _leave(self, stream_id: str) -> None:
        async with self._turn(stream_id):
            if stream_id not in self._claims:
                await self._house.leave(stream_id)

    def _hand_over(self) -> None:
        """Give back the stream that came last; one that came to its end would begin anew elsewhere."""
        ended = {status.id for status in self._house.statuses() if status.state is StreamState.STOPPED}
        candidates = [claim for claim in self._claims.values() if claim.stream_id not in ended]
        if candidates:
            stream_id = max(candidates, key=lambda claim: claim.token).stream_id
            _log.info("stream %s moves to another replica, which has fewer", stream_id)
            self._spawn(self.give_back(stream_id, lambda: self._house.leave(stream_id)), f"handing over {stream_id}")

    async def _let_go(self, claim: Claim) -> None:
        """Others may have the stream. If nobody can be told, the claim runs out."""
        self._forget(claim, Standing(claim.token, sure=False))
        with contextlib.suppress(Unavailable):
            await self._ownership.release(claim)

    def _forget(self, claim: Claim, standing: Standing) -> None:
        if self._claims.get(claim.stream_id) is claim:
            del self._claims[claim.stream_id]
            self._renewed_at.pop(claim.stream_id, None)
        self._former.pop(claim.stream_id, None)
        self._former[claim.stream_id] = standing
        while len(self._former) > _FORMER:
            del self._former[next(iter(self._former))]

    def _turn(self, stream_id: str) -> asyncio.Lock:
        # Locks live as long as somebody holds or awaits them.
        return self._turns.setdefault(stream_id, asyncio.Lock())

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = spawn(_logged(work, name), name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _logged(work: Awaitable[None], name: str) -> None:
    """Do work whose errors nobody waits for."""
    try:
        await work
    except FaceServerError as error:
        _log.warning("%s failed: %s", name, error.message)
    except Exception:  # noqa: BLE001 - the edge of a task: its bug must be seen, and end nothing else
        _log.exception("%s failed", name)

"""Deliveries that wait in Redis, lane by lane, and those that were given up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from face_server.domain.events import DeadLetter, Delivery, Lane
from face_server.domain.ports import Clock
from face_server.errors import Conflict, NotFound, Unavailable
from face_server.journal.options import MAX_ERROR, JournalOptions, check_limit
from face_server.journal.redis_claims import LaneClaims, lane_name, lane_of
from face_server.journal.redis_records import read_value, whole
from face_server.journal.redis_scripts import Refused
from face_server.journal.redis_session import Session

_log = logging.getLogger(__name__)


class RedisOutbox:
    """The part of a journal that delivers; see ``RedisJournal``."""

    def __init__(self, session: Session, clock: Clock, options: JournalOptions, owner: str) -> None:
        self._session = session
        self._clock = clock
        self._options = options
        self._owner = owner
        self.claims = LaneClaims(session.write, clock, owner)

    async def lanes(self, *, free: bool) -> list[Lane]:
        """Lanes with something to deliver, in the order in which they were first used."""
        found = await self._session.read("lanes", self._owner if free else "", self.claims.lease_ms)
        return [lane_of(name) for name in found]

    async def pending(self, lane: Lane, after: int, limit: int) -> list[Delivery]:
        """The oldest deliveries of a lane with id > ``after``; those whose event cannot be read become dead letters."""
        check_limit(limit)
        found: list[Delivery] = []
        last: bytes | int = max(0, whole(after))
        while rows := await self._session.read("pending", lane_name(lane), last, limit - len(found)):
            last = rows[-1][0]
            for number, cursor, queued_at, tries, value in rows:
                attempts, _, error = tries.partition(b" ")
                try:
                    event = read_value(value, int(cursor), self._session.scripts.key("events"))
                    found.append(Delivery(int(number), lane, event, int(attempts), float(queued_at), error.decode()))
                except (Unavailable, ValueError) as failure:
                    self._tell(failure, f"lane:{lane_name(lane)}", number)
                    # It must not keep the lane from ever being empty.
                    with contextlib.suppress(NotFound):
                        await self.settle("bury", int(number), "the event cannot be read", lane)
            if len(found) == limit:
                break
        return found

    async def settle(self, verb: str, delivery_id: int, error: str = "", lane: Lane | None = None) -> None:
        """Take a delivery out, note that it failed, or bury it; of ``lane`` even one of which only the entry is there. Raises NotFound."""
        words = (verb, whole(delivery_id), self._owner, self.claims.lease_ms, error[:MAX_ERROR], repr(self._clock.now()))
        try:
            erased = await self._session.write("settle", *words, self._options.max_dead_letters, lane_name(lane) if lane else "")
        except Refused as refusal:
            if refusal.word == "OWNED":
                raise NotFound(f"delivery {delivery_id} is another replica's: it delivers that lane") from refusal
            raise NotFound(f"no delivery {delivery_id} is waiting") from refusal
        self.count_erased(erased)

    async def dead_letters(self, after: int, limit: int) -> list[DeadLetter]:
        """Deliveries that were given up, by id; those whose event cannot be read are passed over."""
        check_limit(limit)
        found: list[DeadLetter] = []
        last: bytes | int = max(0, whole(after))
        while rows := await self._session.read("letters", last, limit - len(found)):
            last = rows[-1][0]
            for number, lane, cursor, attempts, error, died_at, value in rows:
                try:
                    event = read_value(value, int(cursor), self._session.scripts.key("events"))
                    found.append(DeadLetter(int(number), lane_of(lane), event, int(attempts), error.decode(), float(died_at)))
                except (Unavailable, ValueError) as failure:
                    self._tell(failure, "dead", number)
            if len(found) == limit:
                break
        return found

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """Queue dead letters again, in order of their events. Raises Conflict if one is of a removed stream."""
        bounds = (repr(self._clock.now()), self._options.max_pending_per_lane, self._options.max_dead_letters)
        try:
            replayed, erased = await self._session.write("replay", *bounds, *_known(letter_ids))
        except Refused as refusal:
            raise Conflict(
                f"stream {refusal.detail!r} was removed: its dead letters have nowhere to go", code="stream_removed"
            ) from refusal
        self.count_erased(erased)
        return int(replayed)

    async def discard(self, letter_ids: Sequence[int]) -> int:
        """Erase dead letters. Returns how many there were."""
        return int(await self._session.write("discard", *_known(letter_ids)))

    def count_erased(self, erased: int) -> None:
        """Log that dead letters had to make room."""
        if erased:
            _log.warning("%d dead letters were erased: at most %d are kept", erased, self._options.max_dead_letters)

    def _tell(self, failure: Exception, name: str, number: bytes) -> None:
        key = self._session.scripts.key(name)
        error = failure if isinstance(failure, Unavailable) else Unavailable(f"the key {key} is damaged: its entry {number.decode()}")
        self._session.tell_damage(error)


def _known(letter_ids: Sequence[int]) -> list[int]:
    return sorted({whole(one) for one in letter_ids if one > 0})

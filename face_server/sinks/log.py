"""Events as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from face_server.domain.events import Event

_log = logging.getLogger("face_server.events")


class LogSink:
    """Writes one structured line an event, without pictures."""

    wants_pictures = False

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:  # noqa: ARG002 - the port's signature
        """Log the event; its members are ``fields`` of the record."""
        fields: dict[str, object] = {
            "event_id": event.id,
            "kind": event.kind.value,
            "stream_id": event.stream_id,
            "cursor": event.cursor,
            "at": round(event.at, 3),
            "track": event.track,
        }
        if event.who is not None:
            fields |= {
                "name": event.who.name,
                "identity_id": event.who.identity_id,
                "stranger_id": event.who.stranger_id,
                "similarity": round(float(event.who.similarity), 4),
            }
        _log.info("%s on stream %s: %s", event.kind.value, event.stream_id, event.message, extra={"fields": fields})

    async def close(self) -> None:
        """Nothing to release."""

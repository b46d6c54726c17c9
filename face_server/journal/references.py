"""What events refer to: pictures, and strangers who may get a name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from face_server.domain.events import Event, Who


def pictures_of(event: Event) -> set[str]:
    """The ids of its pictures: best shot, frame, and faces of the scene."""
    return {event.picture, event.frame_picture, *(face.picture for face in event.faces)} - {""}


def strangers_of(event: Event) -> set[str]:
    """The ids of every stranger of an event, bystanders too."""
    return {who.stranger_id for who in (event.who, *(face.who for face in event.faces)) if who is not None and who.stranger_id}


@dataclass(frozen=True, slots=True)
class Rename:
    """What a stranger is called from now on: ``into`` another, or an identity of a collection."""

    stranger_id: str
    name: str
    collection: str
    identity_id: str
    into: str

    def of(self, who: Who | None) -> Who | None:
        """``who`` under the new name, if it is this stranger."""
        if who is None or who.stranger_id != self.stranger_id:
            return who
        stranger_id = "" if self.identity_id else self.into or self.stranger_id
        collection, identity_id = (self.collection, self.identity_id) if self.identity_id else (who.collection, who.identity_id)
        return replace(who, name=self.name, collection=collection, identity_id=identity_id, stranger_id=stranger_id)

    def in_event(self, event: Event) -> Event:
        """The event under the new name, in ``who``, ``faces`` and ``message``; its kind stays what it was."""
        who, message = self.of(event.who), event.message
        if event.who is not None and who is not None and event.who.name and who.name != event.who.name:
            # As a whole word: "Stranger 1" is no part of "Stranger 12".
            message = re.sub(rf"(?<!\w){re.escape(event.who.name)}(?!\w)", lambda _: who.name, message)
        faces = tuple(replace(face, who=self.of(face.who)) for face in event.faces)
        return replace(event, who=who, faces=faces, message=message)

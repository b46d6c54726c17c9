"""Events, strangers and dead letters: what is asked and answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from face_server.api.bodies import ShortModel
from face_server.api.deps import COLLECTION_PATTERN, ID_PATTERN
from face_server.api.schemas.gallery import PersonName
from face_server.api.schemas.streams import Kind


class WhoBody(BaseModel):
    """Somebody who was recognised: an identity of a collection, or a stranger."""

    name: str
    collection: str | None = None
    identity_id: str | None = None
    stranger_id: str | None = None
    similarity: float
    threshold: float = Field(description="What `similarity` had to reach.")


class EventBoxBody(BaseModel):
    """Corners in pixels of the frame."""

    x1: float
    y1: float
    x2: float
    y2: float


class SceneFaceBody(BaseModel):
    """Somebody on the frame of an event."""

    track: int
    box: EventBoxBody
    score: float
    who: WhoBody | None
    announced: bool = Field(description="Whether the event is about them.")
    picture: str | None = Field(description="Address of the aligned crop.")


class EventBody(BaseModel):
    """Something that happened on a stream."""

    id: str = Field(description="The same in every delivery.")
    cursor: int
    kind: Kind
    stream_id: str
    at: datetime = Field(description="When it was decided.")
    started_at: datetime
    ended_at: datetime
    track: int
    who: WhoBody | None
    box: EventBoxBody | None
    frame_width: int
    frame_height: int
    picture: str | None = Field(description="Address of the best shot.")
    frame_picture: str | None = Field(description="Address of the annotated frame.")
    faces: list[SceneFaceBody]
    message: str


class EventPage(BaseModel):
    """Some events."""

    events: list[EventBody]
    next_cursor: int | None = Field(
        description="Send it as `after` (or `before`, reading backwards) for the next page; null where a page was not full."
    )


class StrangerBody(BaseModel):
    """Somebody unknown who is remembered."""

    id: str
    number: int
    name: str
    first_seen_at: datetime
    last_seen_at: datetime
    sightings: int
    picture: str


class StrangerPage(BaseModel):
    """Some strangers."""

    strangers: list[StrangerBody]
    next_cursor: str | None


class NameRequest(ShortModel):
    """Who a stranger is: somebody new (`name`), or somebody enrolled (`identity_id`)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada Lovelace"}]})

    collection: str | None = Field(None, pattern=COLLECTION_PATTERN, description="The server's default collection if left out.")
    name: PersonName | None = None
    identity_id: str | None = Field(None, pattern=ID_PATTERN, description="Somebody of the collection.")
    override: bool = Field(False, description="Whether to do so although the stranger looks like somebody else of the collection.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.name is None) == (self.identity_id is None):
            raise ValueError("either name or identity_id is needed")
        return self


class NamedBody(BaseModel):
    """The identity that a stranger became, and how many events follow."""

    collection: str
    identity_id: str
    name: str
    events: int


class MergeRequest(ShortModel):
    """The stranger who this one really is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"into": "4f1c2a9be07d3358"}]})

    into: str = Field(pattern=ID_PATTERN)


class WaitingBody(BaseModel):
    """A stream and a sink with events on their way."""

    stream_id: str
    sink: str = Field(description="`key` of the sink.")
    failures: int = Field(description="Attempts that failed, one after the other.")
    last_error: str = Field(description="Why the last one failed; empty while all is well.")
    retry_at: datetime | None = Field(description="When it is tried again; null while it is being tried.")


class WaitingList(BaseModel):
    """Every receiver with events on their way."""

    waiting: list[WaitingBody]


class DeadLetterBody(BaseModel):
    """An event that a receiver did not take."""

    id: int
    stream_id: str
    sink: str = Field(description="`key` of the sink.")
    event: EventBody
    attempts: int
    error: str
    died_at: datetime


class DeadLetterPage(BaseModel):
    """Some dead letters."""

    dead_letters: list[DeadLetterBody]
    next_cursor: int | None


class LettersRequest(ShortModel):
    """Dead letters by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [1, 2]}]})

    ids: list[Annotated[int, Field(ge=1, le=2**63 - 1)]] = Field(min_length=1, max_length=1000)


class LettersBody(BaseModel):
    """How many dead letters it was done to."""

    count: int

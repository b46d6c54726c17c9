"""What the service tells about itself."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Alive(BaseModel):
    """The process answers."""

    status: str = Field(examples=["ok"])


class Check(BaseModel):
    """One thing that must work."""

    name: str = Field(examples=["detector"])
    ready: bool
    reason: str = Field(description="Why it is not ready, or goes on without something that is away; empty when all is well.")


class Readiness(BaseModel):
    """Whether requests would be served now."""

    ready: bool
    checks: list[Check]


class ModelBody(BaseModel):
    """A model in use."""

    name: str
    task: str
    licence: str
    commercial_use: bool = Field(description="Whether the licence of the weights allows commercial use.")
    digest: str = Field(description="sha256 of the weights as published.")


class Limits(BaseModel):
    """Bounds of requests."""

    max_body_bytes: int
    max_images: int = Field(description="Pictures a request.")
    max_faces: int = Field(description="Faces reported for one picture.")
    max_concurrent_requests: int
    max_waiting_requests: int


class DefaultsBody(BaseModel):
    """What requests that leave it open get."""

    collection: str
    min_score: float
    max_size: int


class Info(BaseModel):
    """Version, models, backend and limits."""

    version: str
    model: str = Field(description="The model of every embedding that this server makes.")
    detector: ModelBody
    embedder: ModelBody
    backend: str = Field(description="What runs the networks.", examples=["onnxruntime 1.31 (CPUExecutionProvider)"])
    keys_required: bool = Field(description="Whether requests need an API key.")
    limits: Limits
    defaults: DefaultsBody

"""Looks at a server: which version it is, and whether its models are what they should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2

from face_server.backends.triton import errors
from face_server.backends.triton.connection import Connection
from face_server.backends.triton.expectations import Expected, compare


@dataclass(frozen=True, slots=True)
class Findings:
    """``batch_limits``: the most rows of a call for each expected model that is loaded, 0 for any; ``missing``: the others."""

    version: str
    batch_limits: Mapping[str, int]
    missing: frozenset[str]


async def lives(connection: Connection) -> None:
    """Ask for a sign of life. Raises AioRpcError."""
    await connection.ask("ServerLive", service_pb2.ServerLiveRequest())


async def inspect(connection: Connection, address: str, expected: Iterable[Expected]) -> Findings:
    """Compare the models with what is ``expected``. Raises AioRpcError, and what ``compare`` raises."""
    about = await connection.ask("ServerMetadata", service_pb2.ServerMetadataRequest())
    limits = {one.model: await _examine(connection, address, one) for one in expected}
    present = {model: limit for model, limit in limits.items() if limit is not None}
    return Findings(about.version, present, frozenset(limits.keys() - present.keys()))


async def _examine(connection: Connection, address: str, expected: Expected) -> int | None:
    """The most rows of a call, None for a model that is not loaded."""
    try:
        metadata = await connection.ask("ModelMetadata", service_pb2.ModelMetadataRequest(name=expected.model))
        config = await connection.ask("ModelConfig", service_pb2.ModelConfigRequest(name=expected.model))
    except grpc.aio.AioRpcError as error:
        if errors.model_missing(error):
            return None
        raise
    return compare(expected, metadata, config.config, address)

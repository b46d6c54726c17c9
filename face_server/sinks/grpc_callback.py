"""Alerts as calls of the face server's gRPC callback (protos/inference_result.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from face_server.domain.events import ALERTS, Event
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks.addresses import Address, Resolver
from face_server.sinks.callback_payload import analysis_result
from face_server.sinks.inference_result_pb2 import InferenceCallbackRequest, InferenceCallbackResponse
from face_server.workers import Workers

METHOD = "/InferenceCallbackService/checkpoint"

_FOR_GOOD = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_CHANNEL = (
    # Found dead while calls wait; the pings of idle channels are not welcome with servers as they come.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A receiver that is back is noticed soon: the pauses between deliveries are the caller's affair.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Channels of a process share their connections unless told not to, failed ones too.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """``ca_pem`` are the certificates that a TLS connection trusts; None takes gRPC's own list."""

    tls: bool = False
    timeout_s: float = 10.0
    ca_pem: str | None = None


@dataclass(slots=True)
class _Line:
    """A channel and the calls on it; one that is given up closes with its last call."""

    channel: grpc.aio.Channel
    calls: int = 0
    given_up: bool = False


class GrpcCallback:
    """Calls ``InferenceCallbackService.checkpoint`` for each person or stranger who was seen.

    Any answer is a receipt, whatever its fields say. The connection is made with the first event
    and kept; a call that ran into its deadline is taken for a dead connection, which the next
    delivery replaces.
    """

    wants_pictures = True

    def __init__(self, address: Address, options: GrpcOptions, resolver: Resolver, workers: Workers) -> None:
        self._address = address
        self._options = options
        self._resolver = resolver
        self._workers = workers
        self._line: _Line | None = None

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Call the receiver."""
        if event.kind not in ALERTS:
            raise DeliveryRefused("the gRPC callback carries person_seen and stranger_seen only")
        await self.call(event.stream_id, await self._workers.run(analysis_result, event, pictures))

    async def call(self, task_id: str, result: str) -> None:
        """Call the receiver with an ``analysis_result``. Raises Unavailable or DeliveryRefused."""
        request = InferenceCallbackRequest(task_id=task_id, result_type="1", analysis_result=result, callback_type="1")
        timeout_s = self._options.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._resolver.peers(self._address)
                await self._call(request)
        except TimeoutError as error:
            raise Unavailable(f"the receiver did not answer within {timeout_s:g} s", retry_after_s=0.0) from error

    async def close(self) -> None:
        """Close the connection."""
        line, self._line = self._line, None
        if line is not None:
            line.given_up = True
            await line.channel.close(None)

    async def _call(self, request: InferenceCallbackRequest) -> None:
        line = self._line = self._line or _Line(self._open())
        checkpoint = line.channel.unary_unary(METHOD, InferenceCallbackRequest.SerializeToString, InferenceCallbackResponse.FromString)
        answered = False
        line.calls += 1
        try:
            await checkpoint(request, timeout=self._options.timeout_s)
            answered = True
        except grpc.aio.AioRpcError as error:
            answered = error.code() not in _NO_ANSWER
            raise _translated(error) from error
        finally:
            line.calls -= 1
            if not answered:
                self._give_up(line)
            if line.given_up and not line.calls:
                await line.channel.close(None)

    def _give_up(self, line: _Line) -> None:
        line.given_up = True
        if self._line is line:
            self._line = None

    def _open(self) -> grpc.aio.Channel:
        target = self._address.authority
        if not self._options.tls:
            return grpc.aio.insecure_channel(target, options=_CHANNEL)
        ca_pem = self._options.ca_pem
        credentials = grpc.ssl_channel_credentials(ca_pem.encode() if ca_pem else None)
        return grpc.aio.secure_channel(target, credentials, options=_CHANNEL)


def _translated(error: grpc.aio.AioRpcError) -> Unavailable | DeliveryRefused:
    code, details = error.code(), error.details() or ""
    name = code.name if isinstance(code, grpc.StatusCode) else "no status"
    if code in _FOR_GOOD:
        return DeliveryRefused(f"the receiver answered {name}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return DeliveryRefused("the receiver takes no messages of this size: raise its grpc.max_receive_message_length")
    if code is grpc.StatusCode.UNAVAILABLE:
        tls = " or its certificate cannot be verified" if "handshake" in details.lower() or "certificate" in details.lower() else ""
        return Unavailable(f"the receiver cannot be connected to{tls}", retry_after_s=0.0)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable("the receiver did not answer in time", retry_after_s=0.0)
    return Unavailable(f"the receiver answered {name}", retry_after_s=0.0)

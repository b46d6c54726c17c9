"""What gRPC says, in the words of this service."""

from __future__ import annotations

import grpc
import pytest

from face_server.backends.triton.errors import RegionLost, read
from face_server.errors import FaceServerError, InputTooLarge, InvalidInput, NotFound, Overloaded, Unavailable

CODES = grpc.StatusCode
AWAY = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused"


def said(code: grpc.StatusCode, details: str | None) -> grpc.aio.AioRpcError:
    """The end of a call."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "details", "kind", "sentence", "follows"),
    [
        (CODES.UNAVAILABLE, AWAY, Unavailable, "Triton at host:1 cannot run model 'm': connection refused", {"elsewhere", "endpoint"}),
        (CODES.UNAVAILABLE, "Stream removed (Socket closed)", Unavailable, "the connection was lost", {"elsewhere", "endpoint"}),
        (CODES.UNAVAILABLE, "Server is stopping, scheduler for model", Unavailable, "is stopping", {"elsewhere", "endpoint"}),
        (CODES.UNAVAILABLE, "onnxruntime failed to run", Unavailable, "onnxruntime failed to run", {"elsewhere"}),
        (CODES.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size", Overloaded, "the queue of model 'm' on Triton", {"elsewhere"}),
        (CODES.RESOURCE_EXHAUSTED, "out of memory", Overloaded, "has no room", {"elsewhere"}),
        (CODES.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", InputTooLarge, "too large", set()),
        (CODES.DEADLINE_EXCEEDED, "Deadline Exceeded", Unavailable, r"did not answer within 2\.0 s", {"endpoint"}),
        (CODES.INVALID_ARGUMENT, "unexpected shape", InvalidInput, "refuses the request: unexpected shape", set()),
        (CODES.UNAUTHENTICATED, "token of joe", Unavailable, "^Triton at host:1 refuses the credentials of this service$", set()),
        (CODES.INTERNAL, "ValueError: x\nAt line 7", Unavailable, "failed: ValueError: x$", set()),
        (
            CODES.INTERNAL,
            "Stub process 'm_0_0' is not healthy.",
            Unavailable,
            "has died on Triton",
            {"elsewhere", "instance_dead"},
        ),
        (CODES.UNKNOWN, None, Unavailable, "failed: unknown$", set()),
        (CODES.CANCELLED, "the request was cancelled", Unavailable, "cancelled", set()),
    ],
)
def test_every_end(code: grpc.StatusCode, details: str | None, kind: type[FaceServerError], sentence: str, follows: set[str]) -> None:
    """Each end of a call has its error, and says whether another server may be asked and whether this one is to blame."""
    fault = read(said(code, details), "m", "host:1", expected=True, timeout_s=2.0)
    assert type(fault.error) is kind
    with pytest.raises(kind, match=sentence):
        raise fault.error
    assert {name for name in ("elsewhere", "endpoint", "model_missing", "instance_dead") if getattr(fault, name)} == follows


def test_missing_models() -> None:
    """A model that this service needs is away; any other is unknown."""
    error = said(CODES.NOT_FOUND, "Request for unknown model: 'm' has no available versions")
    assert isinstance(read(error, "m", "host:1", expected=True, timeout_s=1).error, Unavailable)
    fault = read(error, "m", "host:1", expected=False, timeout_s=1)
    assert isinstance(fault.error, NotFound)
    assert fault.model_missing
    assert fault.elsewhere


def test_lost_regions() -> None:
    """A region that the server does not know is no error of the call: it is sent again."""
    with pytest.raises(RegionLost):
        read(said(CODES.NOT_FOUND, "Unable to find shared memory region: 'r'"), "m", "host:1", expected=True, timeout_s=1)

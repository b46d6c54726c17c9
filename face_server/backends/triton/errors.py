"""What Triton and gRPC say when a call fails, in the words of ``face_server.errors``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from face_server.domain.face_pipeline import read_fault
from face_server.errors import FaceServerError, InputTooLarge, InvalidInput, NotFound, Overloaded, Unavailable

_CAUSE_CHARACTERS: Final = 300
_UNKNOWN_ID: Final = "[request id: <id_unknown>] "

_CODES: Final = grpc.StatusCode

_CONNECTION_CODES: Final = (_CODES.UNAVAILABLE, _CODES.DEADLINE_EXCEEDED)
_CONNECTION_CAUSES: Final = (
    ("connection refused", "connection refused"),
    ("certificate_verify_failed", "its certificate cannot be verified"),
    ("wrong_version_number", "it does not speak TLS"),
    ("failed parsing http/2", "it does not speak gRPC, or wants TLS"),
    ("handshake failed", "the TLS handshake failed"),
    ("certificate", "its certificate cannot be verified"),
    ("dns resolution failed", "its name cannot be resolved"),
    ("no route to host", "there is no route to it"),
    ("unreachable", "its network cannot be reached"),
    ("deadline exceeded", "it does not answer"),
    ("timed out", "it does not answer"),
    ("timeout", "it does not answer"),
    ("keepalive", "it does not answer"),
    ("stream removed", "the connection was lost"),
    ("socket closed", "the connection was lost"),
    ("connection reset", "the connection was lost"),
    ("goaway", "the connection was lost"),
)
"""Signs in what gRPC says, the more telling ones first, and what they mean."""

_SERVER_SIGNS: Final = ("server is stopping", "server is exiting", "failed to connect", *(sign for sign, _ in _CONNECTION_CAUSES))
"""Signs that the server as a whole takes no calls."""


class RegionLost(Exception):
    """The server does not know a shared memory region: it was started anew since the registration."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed call: the ``error`` for its caller, and what follows from it.

    ``elsewhere``: the call has had no effect, another server may answer it. ``endpoint``: it speaks
    against the server, not against the call. ``model_missing``: the server has not loaded the model.
    ``instance_dead``: the process of one of the model's instances has ended.
    """

    error: FaceServerError
    elsewhere: bool = False
    endpoint: bool = False
    model_missing: bool = False
    instance_dead: bool = False

    @property
    def answered(self) -> bool:
        """Whether it is the model's own answer to this call."""
        return not (self.elsewhere or self.endpoint)


class Failed(Exception):
    """A call to one server did not succeed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.error.message)
        self.fault = fault


def cause_of(error: grpc.aio.AioRpcError) -> str:
    """The reason that gRPC or the server gives, in one line: of a lost connection in plain words, else as it was said."""
    text = (error.details() or "").removeprefix(_UNKNOWN_ID).strip()
    if error.code() in _CONNECTION_CODES:
        for sign, words in _CONNECTION_CAUSES:
            if sign in text.lower():
                return words
    return text.partition("\n")[0][:_CAUSE_CHARACTERS] or error.code().name.lower().replace("_", " ")


def model_missing(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server says that it has not loaded the model (or the version of it)."""
    text = (error.details() or "").lower()
    return "unknown model" in text or ("model" in text and "is not ready" in text)


def read(error: grpc.aio.AioRpcError, model: str, endpoint: str, *, expected: bool, timeout_s: float) -> Fault:
    """What the end of an inference means; ``expected`` says whether ``model`` is one that this service needs.

    Raises RegionLost for a shared memory region that the server does not know.
    """
    code, text, cause = error.code(), (error.details() or "").lower(), cause_of(error)
    where = f"model {model!r} on Triton at {endpoint}"
    if "unable to find shared memory region" in text:
        raise RegionLost(cause)
    if model_missing(error):
        return Fault(missing(model, endpoint, expected=expected), elsewhere=True, model_missing=True)
    if "stub process" in text and "is not healthy" in text:
        # Triton neither replaces the process nor stops calling the model ready; other instances may be well.
        return Fault(dead(model, endpoint), elsewhere=True, instance_dead=True)
    if "exceeds maximum queue size" in text:
        return Fault(Overloaded(f"the queue of {where} is full"), elsewhere=True)
    match code:
        case _CODES.INVALID_ARGUMENT:
            refusal = read_fault(error.details() or "")
            return Fault(refusal or InvalidInput(f"{where} refuses the request: {cause}", field="inputs"))
        case _CODES.RESOURCE_EXHAUSTED if "larger than max" in text:
            return Fault(InputTooLarge(f"a message to or from {where} is too large: {cause}"))
        case _CODES.RESOURCE_EXHAUSTED:
            return Fault(Overloaded(f"{where} has no room for the request: {cause}"), elsewhere=True)
        case _CODES.DEADLINE_EXCEEDED:
            return Fault(Unavailable(f"{where} did not answer within {timeout_s:.1f} s"), endpoint=True)
        case _CODES.UNAVAILABLE:
            # A model may say so of itself, while the server and its other models are well.
            gone = any(sign in text for sign in _SERVER_SIGNS)
            return Fault(Unavailable(f"Triton at {endpoint} cannot run model {model!r}: {cause}"), elsewhere=True, endpoint=gone)
        case _CODES.UNAUTHENTICATED | _CODES.PERMISSION_DENIED:
            return Fault(Unavailable(f"Triton at {endpoint} refuses the credentials of this service"))
        case _:
            return Fault(Unavailable(f"{where} failed: {cause}"))


def dead(model: str, endpoint: str) -> Unavailable:
    """The error for a model whose processes have ended."""
    return Unavailable(f"a process of model {model!r}, or of one that it calls, has died on Triton at {endpoint}: load that model again")


def missing(model: str, endpoint: str, *, expected: bool) -> FaceServerError:
    """The error for a model that a server has not loaded."""
    if expected:
        return Unavailable(f"model {model!r} is not loaded by Triton at {endpoint}")
    return NotFound(f"there is no model {model!r} on Triton at {endpoint}")

"""What models say instead of tensors."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from face_server.domain.face_pipeline import fault_text
from face_server.errors import FaceServerError, InvalidInput, NotFound, Overloaded, Unavailable

# By name: Triton completes pb_utils only after it has imported the model.
_CODES: Final[Sequence[tuple[type[FaceServerError], str]]] = (
    (InvalidInput, "INVALID_ARG"),
    (NotFound, "NOT_FOUND"),
    (Overloaded, "UNAVAILABLE"),
    (Unavailable, "UNAVAILABLE"),
)


def refusal(error: FaceServerError) -> Any:
    """The response to a request that met ``error``: what is wrong with the picture as ``fault_text``, anything else as its sentence."""
    return _error(fault_text(error) if isinstance(error, InvalidInput) else error.message, _code(error))


def plain_refusal(error: FaceServerError) -> Any:
    """The response to a request for a network, whose callers are no clients of the pipelines: always a sentence."""
    return _error(error.message, _code(error))


def breakdown(model: str, error: Exception) -> Any:
    """The response to a request on which ``model`` itself broke down; the traceback goes to the server's log, not to the caller."""
    pb_utils.Logger.log_error(f"{model}: {''.join(traceback.format_exception(error))}")
    return _error(f"{model} failed on this request ({type(error).__name__}); the server's log says more", "INTERNAL")


def cancelled() -> Any:
    """The response that nobody waits for any more."""
    return _error("the request was cancelled", "CANCELLED")


def chosen(outputs: Mapping[str, Any], request: Any) -> Any:
    """The response with those of ``outputs`` that ``request`` wants."""
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in wanted])


def _code(error: FaceServerError) -> str:
    return next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL")


def _error(text: str, code: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))

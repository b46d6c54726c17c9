"""Every error a caller can meet, as one tree.

    FaceServerError
    ├── InvalidInput            the caller sent something that cannot be used
    │   ├── InvalidImage        bytes that are not a picture we can decode
    │   ├── InputTooLarge       more bytes, pixels or items than the stated limit
    │   └── FaceRejected        a picture that the enrolment gate or a 1:1 rule refuses
    ├── NotFound                a name or id that nothing is stored under
    ├── Conflict                the request contradicts what is stored
    │   └── ModelMismatch       embeddings of different models were about to be compared
    ├── AccessDenied            missing, unknown or insufficient API key
    ├── Overloaded              a bound is reached; the same request may succeed later
    ├── Unavailable             a dependency is away; the same request may succeed later
    │   └── SourceFailed        a camera or file gives no frames
    ├── DeliveryRefused         a receiver of events will not take this one, however often it is tried
    ├── WeightsError            a model file is missing, altered or breaks its contract
    └── ConfigurationError      the service was started with settings that cannot work

Adapters translate foreign errors into these at their edge. Only ``face_server.api.problems``
knows which HTTP status each becomes.
"""

from __future__ import annotations


class FaceServerError(Exception):
    """Base of the tree. ``code`` is stable and machine-readable, the message is one sentence."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code is not None:
            self.code = code


class InvalidInput(FaceServerError):
    """Raised when a request cannot be used as it is; ``field`` names the culprit where known."""

    code = "invalid_input"


class InvalidImage(InvalidInput):
    """Raised when bytes are empty, truncated, or not an image in a supported format."""

    code = "invalid_image"


class InputTooLarge(InvalidInput):
    """Raised when bytes, pixels or items exceed a limit; the message states the limit."""

    code = "input_too_large"


class FaceRejected(InvalidInput):
    """Raised when a picture holds no usable face; ``reasons`` lists every rule that refused it."""

    code = "face_rejected"

    def __init__(self, message: str, *, reasons: tuple[str, ...], field: str | None = None) -> None:
        super().__init__(message, code=reasons[0], field=field)
        self.reasons = reasons


class NotFound(FaceServerError):
    """Raised when nothing is stored under the given name or id."""

    code = "not_found"


class Conflict(FaceServerError):
    """Raised when a request contradicts what is stored."""

    code = "conflict"


class ModelMismatch(Conflict):
    """Raised when an embedding meets a collection or an embedding of another model."""

    code = "model_mismatch"


class AccessDenied(FaceServerError):
    """Raised when an API key is missing, unknown or lacks the role."""

    code = "access_denied"

    def __init__(self, message: str, *, authenticated: bool) -> None:
        super().__init__(message)
        self.authenticated = authenticated


class Overloaded(FaceServerError):
    """Raised when a queue or another bound is full; retry after ``retry_after_s`` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(FaceServerError):
    """Raised when a dependency does not answer; retry after ``retry_after_s`` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 5.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class SourceFailed(Unavailable):
    """Raised when a camera or file cannot be opened or stopped giving frames.

    ``code`` is one of source_unreachable, source_timeout, source_lost, source_garbled,
    source_credentials, source_codec, source_not_found, source_forbidden, source_stuck. ``needs_operator`` says that
    trying again soon is pointless: somebody must change something.
    """

    code = "source_lost"

    def __init__(self, message: str, *, code: str | None = None, needs_operator: bool = False, retry_after_s: float = 5.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s, code=code)
        self.needs_operator = needs_operator


class DeliveryRefused(FaceServerError):
    """Raised when a receiver of events refuses one for good."""

    code = "delivery_refused"


class WeightsError(FaceServerError):
    """Raised when a model file is missing, has another digest, or breaks its tensor contract."""

    code = "weights_error"


class ConfigurationError(FaceServerError):
    """Raised at start when settings contradict each other or the machine."""

    code = "configuration_error"

"""What FFmpeg's errors mean to somebody who watches a camera."""

from __future__ import annotations

import errno

import av.error

from face_server.errors import SourceFailed

_TIMEOUTS = (av.error.ExitError, av.error.TimeoutError, TimeoutError)
_CREDENTIALS = (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)
_CODEC = (av.error.DecoderNotFoundError, av.error.PatchWelcomeError)
_UNREACHABLE = (
    av.error.ConnectionRefusedError,
    av.error.ConnectionAbortedError,
    av.error.ConnectionResetError,
    av.error.BrokenPipeError,
    av.error.HTTPError,
)
_UNREACHABLE_NUMBERS = frozenset({errno.EIO, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})


def source_failure(error: Exception, *, opening: bool, local: bool) -> SourceFailed:
    """The same as SourceFailed, in a sentence without the address."""
    what = "file or device" if local else "camera"
    if isinstance(error, _TIMEOUTS):
        return SourceFailed(f"the {what} does not answer in time", code="source_timeout")
    if isinstance(error, _CREDENTIALS):
        return SourceFailed("the camera refuses the user name or password", code="source_credentials", needs_operator=True)
    if isinstance(error, av.error.HTTPNotFoundError | av.error.FileNotFoundError | FileNotFoundError):
        message = f"the {what} does not exist" if local else "the camera knows no stream by this path"
        return SourceFailed(message, code="source_not_found", needs_operator=local)
    if isinstance(error, _CODEC):
        return SourceFailed(f"the video codec of the {what} is not supported", code="source_codec", needs_operator=True)
    if isinstance(error, av.error.PermissionError | av.error.ProtocolNotFoundError | PermissionError):
        return SourceFailed(f"the {what} may not be read by this service", code="source_forbidden", needs_operator=True)
    if not opening:
        return SourceFailed(f"the connection to the {what} broke off", code="source_lost")
    if isinstance(error, av.error.InvalidDataError):
        return SourceFailed(f"what the {what} sends is not video in a known format", code="source_garbled", needs_operator=local)
    if isinstance(error, _UNREACHABLE) or getattr(error, "errno", None) in _UNREACHABLE_NUMBERS:
        return SourceFailed(f"the {what} cannot be reached", code="source_unreachable")
    return SourceFailed(f"the {what} ended the connection before it sent pictures", code="source_lost")

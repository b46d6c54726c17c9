"""Headers a caller may add to the request for its picture."""

from __future__ import annotations

import re
from collections.abc import Mapping

from face_server.errors import InvalidInput

_MAX_HEADERS = 32
_MAX_HEADER_BYTES = 8192
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

# What frames the message or belongs to the connection is the client's alone (RFC 9110, 7.2 and 7.6.1).
_OWN = frozenset(
    {
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "accept-encoding",
        "expect",
        "range",
    }
)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The same headers with names in lower case.

    Raises InvalidInput for names and values that are not those of a header (line breaks above
    all), for headers that govern the connection, and for too many; values are never repeated.
    """
    if len(headers) > _MAX_HEADERS or sum(len(name) + len(value) for name, value in headers.items()) > _MAX_HEADER_BYTES:
        raise InvalidInput(f"at most {_MAX_HEADERS} request headers of {_MAX_HEADER_BYTES} bytes together are allowed", field="headers")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            raise InvalidInput("a request header has a name that is not one", field="headers")
        if lower in _OWN or lower.startswith("proxy-"):
            raise InvalidInput(f"the request header {lower} cannot be set", field="headers")
        if not _VALUE.fullmatch(value):
            raise InvalidInput(f"the value of the request header {lower} holds characters that are not allowed", field="headers")
        checked[lower] = value
    return checked

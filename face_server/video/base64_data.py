"""Pictures as base64 text."""

from __future__ import annotations

import binascii

import pybase64

from face_server.errors import InputTooLarge, InvalidImage

_WHITESPACE = b" \t\r\n\v\f"


def decode_base64(text: str | bytes, max_bytes: int) -> bytes:
    """The bytes behind base64 text.

    A ``data:`` prefix up to the last comma, white space, the URL-safe alphabet and missing padding
    are tolerated; anything else that is not base64 raises InvalidImage. More than ``max_bytes``
    raises InputTooLarge, before decoding.
    """
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise InvalidImage("the base64 text holds characters that are not ASCII") from error
    if encoded[:5].lower() == b"data:":
        encoded = encoded.rpartition(b",")[2]
    encoded = encoded.translate(None, _WHITESPACE)
    if not encoded:
        raise InvalidImage("the base64 text is empty")
    size = len(encoded) * 3 // 4 - encoded[-2:].count(b"=")
    if size > max_bytes:
        raise InputTooLarge(f"the base64 text holds {size} bytes, at most {max_bytes} are allowed")
    if b"-" in encoded or b"_" in encoded:
        encoded = encoded.translate(bytes.maketrans(b"-_", b"+/"))
    if not encoded.endswith(b"="):
        encoded += b"=" * (-len(encoded) % 4)
    try:
        return pybase64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage("the text is not valid base64") from error

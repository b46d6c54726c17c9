"""Base64 text as clients really send it."""

from __future__ import annotations

import base64
import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.errors import InputTooLarge, InvalidImage
from face_server.video.base64_data import decode_base64

RAW = bytes(range(256)) * 3
LIMIT = 10_000


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW),
        base64.b64encode(RAW).decode(),
        base64.encodebytes(RAW),
        base64.b64encode(RAW).decode().replace("A", "A\r\n \t"),
        base64.urlsafe_b64encode(RAW),
        "data:image/jpeg;base64," + base64.b64encode(RAW).decode(),
        "DATA:image/jpeg;name=a,b.jpg;base64," + base64.b64encode(RAW).decode(),
        b"data:;base64," + base64.urlsafe_b64encode(RAW),
    ],
)
def test_tolerated_forms(text: str | bytes) -> None:
    """With or without a data: prefix, in lines, in either alphabet, as text or bytes: the same bytes."""
    assert decode_base64(text, LIMIT) == RAW


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_round_trip_with_and_without_padding(raw: bytes, url_safe: bool) -> None:
    """Any bytes survive, also where the padding was left out."""
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(raw)
    assert decode_base64(text, LIMIT) == raw
    assert decode_base64(text.rstrip(b"="), LIMIT) == raw


@pytest.mark.parametrize(
    "text",
    ["@@@@", "abc$", "a", "abcde", "ab=c", "====", "ab===", "http://example.org/a.jpg", "aGVsbG8=aGVsbG8=", "图像", "image/png,aGVsbG8="],
)
def test_what_is_no_base64(text: str) -> None:
    """Anything else is refused in a sentence that repeats none of it."""
    with pytest.raises(InvalidImage, match="base64") as refusal:
        decode_base64(text, LIMIT)
    assert len(text) < 4 or text not in refusal.value.message


@pytest.mark.parametrize("text", ["", "  \n", "data:image/png;base64,", b""])
def test_empty(text: str | bytes) -> None:
    """No data is called empty."""
    with pytest.raises(InvalidImage, match="empty"):
        decode_base64(text, LIMIT)


def test_size_is_checked_before_decoding() -> None:
    """The limit is inclusive, and even invalid text beyond it is refused by its length."""
    assert len(decode_base64(base64.b64encode(bytes(1000)), 1000)) == 1000
    with pytest.raises(InputTooLarge, match="1001 bytes, at most 1000"):
        decode_base64(base64.b64encode(bytes(1001)), 1000)
    with pytest.raises(InputTooLarge):
        decode_base64("$" * 4000, 1000)


@given(st.text(alphabet=string.printable + "é漢\x00", max_size=80))
def test_any_text_decodes_or_is_refused(text: str) -> None:
    """No text raises anything undocumented."""
    with contextlib.suppress(InvalidImage):
        assert isinstance(decode_base64(text, LIMIT), bytes)

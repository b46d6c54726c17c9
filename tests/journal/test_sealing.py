"""Secrets at rest."""

from __future__ import annotations

import base64
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.errors import ConfigurationError
from face_server.journal.sealing import Sealer

KEY = bytes(range(32))


@given(st.text(), st.text(alphabet=st.characters(codec="utf-8")))
def test_what_is_sealed_opens_in_its_context(text: str, context: str) -> None:
    """And only there."""
    sealer = Sealer.from_key(KEY)
    sealed = sealer.seal(text, context)
    assert sealer.unseal(sealed, context) == text
    assert sealed.isascii()
    if text:
        with pytest.raises(ConfigurationError):
            sealer.unseal(sealed, context + "x")


def test_sealing_shows_nothing() -> None:
    """Neither the text nor that two texts are the same."""
    sealer = Sealer.from_key(KEY)
    one, two = sealer.seal("rtsp://admin:pa55@cam", "a"), sealer.seal("rtsp://admin:pa55@cam", "a")
    assert one != two
    assert "pa55" not in one
    assert b"pa55" not in base64.b64decode(one.partition(":")[2])


def test_another_key_or_a_changed_text_does_not_open() -> None:
    """Every flipped byte is noticed; the error names where the key comes from."""
    sealer, other = Sealer.from_key(KEY), Sealer.from_text("ab" * 32, origin="FACE_SERVER_KEY")
    # Eight bytes more than nonce and tag fill base64 without spare bits, which nobody could tell apart.
    sealed = sealer.seal("secrets!", "a")
    assert sealer.fingerprint != other.fingerprint
    assert sealer.fingerprint == Sealer.from_key(KEY).fingerprint
    with pytest.raises(ConfigurationError, match="FACE_SERVER_KEY"):
        other.unseal(sealed, "a")
    for place in range(len(sealed)):
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        with pytest.raises(ConfigurationError):
            sealer.unseal(changed, "a")
    for text in ("secret", "s1:", "s1:AAAA", "s1:ä", sealed[:-4]):
        with pytest.raises(ConfigurationError):
            sealer.unseal(text, "a")


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper() + "\n",
        base64.b64encode(b"\xff" * 32).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode().rstrip("="),
    ],
)
def test_a_key_is_hexadecimal_or_base64(text: str) -> None:
    """With or without padding, line ends, and in either alphabet."""
    expected = KEY if text.strip().lower() == KEY.hex() else b"\xff" * 32
    assert Sealer.from_text(text, origin="x").fingerprint == Sealer.from_key(expected).fingerprint


@pytest.mark.parametrize("text", ["", "secret", "ab" * 31, "ab" * 33, "zz" * 32, base64.b64encode(bytes(31)).decode(), "é" * 64])
def test_what_is_no_key_is_refused(text: str) -> None:
    """The message says what is expected, and not what was given."""
    with pytest.raises(ConfigurationError, match=r"KEY_VARIABLE must hold 32 bytes as 64 hexadecimal digits or as base64$"):
        Sealer.from_text(text, origin="KEY_VARIABLE")


def test_a_key_has_32_bytes() -> None:
    """No other length is a key."""
    with pytest.raises(ConfigurationError, match="32 bytes, got 16"):
        Sealer.from_key(bytes(16))


def test_a_missing_key_file_is_made(tmp_path: Path) -> None:
    """For its owner's eyes only, with a new key, which the next start finds; nothing else is left behind."""
    path = tmp_path / "data" / "journal.key"
    first, second = Sealer.from_file(path), Sealer.from_file(path)
    assert first.fingerprint == second.fingerprint
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert Sealer.from_file(tmp_path / "other.key").fingerprint != first.fingerprint


def test_many_who_make_a_key_file_at_once_get_one_key(tmp_path: Path) -> None:
    """Nobody goes on with a key that was overwritten."""
    fingerprints: list[bytes] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        fingerprints.append(Sealer.from_file(tmp_path / "journal.key").fingerprint)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fingerprints) == 8
    assert len(set(fingerprints)) == 1


@pytest.mark.parametrize("content", [b"", b"not a key", os.urandom(100), b"0" * 10_000])
def test_a_key_file_that_holds_no_key_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """The message names the file."""
    path = tmp_path / "journal.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"journal\.key must hold 32 bytes"):
        Sealer.from_file(path)
    assert path.read_bytes() == content


def test_a_key_file_that_others_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is used, and the log says what to do; a file of its owner alone is not worth a word."""
    path = tmp_path / "journal.key"
    fingerprint = Sealer.from_file(path).fingerprint
    assert not caplog.messages
    path.chmod(0o640)
    assert Sealer.from_file(path).fingerprint == fingerprint
    assert "chmod 600" in caplog.text


def test_a_key_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A folder in its place, or a file in the place of its folder."""
    with pytest.raises(ConfigurationError, match=r"key file .* cannot be used"):
        Sealer.from_file(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"key file .* cannot be used"):
        Sealer.from_file(tmp_path / "file" / "journal.key")

"""Secrets at rest: AES-256-GCM under one key of the installation."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from face_server.errors import ConfigurationError

KEY_BYTES = 32
_NONCE_BYTES = 12
_MARK = "s1:"
_MAX_KEY_FILE_BYTES = 4096
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_log = logging.getLogger(__name__)


class Sealer:
    """Seals short texts so that only holders of the key can read or alter them.

    Each is bound to a context (whose it is), and opens in that context only. ``origin`` says where
    the key comes from, for messages.
    """

    def __init__(self, key: bytes, *, origin: str) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"{origin} must hold {KEY_BYTES} bytes, got {len(key)}")
        self.origin = origin
        self._cipher = AESGCM(key)
        self._fingerprint = hmac.new(key, b"face_server fingerprint of a sealing key", hashlib.sha256).digest()

    @classmethod
    def from_key(cls, key: bytes) -> Self:
        """Under a key of 32 bytes; ConfigurationError for another length."""
        return cls(key, origin="the sealing key")

    @classmethod
    def from_text(cls, text: str, *, origin: str) -> Self:
        """Under a key written as 64 hexadecimal digits or as base64 of 32 bytes, such as a variable named ``origin``."""
        return cls(_key_in(text, origin), origin=origin)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Under the key in a file (as in ``from_text``); a missing file is made with a new key, for its owner's eyes only.

        Blocks for milliseconds. Several processes may do this at once: they end up with one key.
        Raises ConfigurationError when the file cannot be used; it is never overwritten.
        """
        origin = f"the key file {path}"
        try:
            if not path.exists():
                _make_key_file(path)
            with path.open("rb") as file:
                text = file.read(_MAX_KEY_FILE_BYTES)
                if os.fstat(file.fileno()).st_mode & _OTHERS:
                    _log.warning("%s can be read by others than its owner: chmod 600 it", origin)
        except OSError as error:
            raise ConfigurationError(f"{origin} cannot be used: {error.strerror}") from error
        return cls.from_text(text.decode("ascii", "replace"), origin=origin)

    @property
    def fingerprint(self) -> bytes:
        """Tells keys apart and reveals nothing of them."""
        return self._fingerprint

    def seal(self, text: str, context: str) -> str:
        """``text`` in a form that may be stored; the empty text stays empty."""
        if not text:
            return ""
        nonce = os.urandom(_NONCE_BYTES)
        return _MARK + base64.b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), context.encode())).decode()

    def seal_bytes(self, data: bytes, context: str) -> bytes:
        """``data`` in a form that may be stored, 28 bytes longer."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, context.encode())

    def unseal_bytes(self, sealed: bytes, context: str) -> bytes:
        """The bytes again. Raises ConfigurationError as ``unseal``."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
        except (ValueError, InvalidTag) as error:
            raise ConfigurationError(f"what was sealed is damaged, or {self.origin} is not the one it was sealed with") from error

    def unseal(self, sealed: str, context: str) -> str:
        """The text again. Raises ConfigurationError if it was sealed under another key or context, or altered."""
        if not sealed:
            return ""
        try:
            if not sealed.startswith(_MARK):
                raise binascii.Error
            data = base64.b64decode(sealed.removeprefix(_MARK), validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode()).decode()
        except (ValueError, InvalidTag) as error:
            raise ConfigurationError(f"what was sealed is damaged, or {self.origin} is not the one it was sealed with") from error


def _key_in(text: str, origin: str) -> bytes:
    text = text.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    with contextlib.suppress(ValueError):
        key = base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4), validate=True)
        if len(key) == KEY_BYTES:
            return key
    raise ConfigurationError(f"{origin} must hold {KEY_BYTES} bytes as {2 * KEY_BYTES} hexadecimal digits or as base64")


def _make_key_file(path: Path) -> None:
    """Write a new key where there is none: whole or not at all, and never over another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

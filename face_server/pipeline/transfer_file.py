"""Writing and reading the file of ``transfer_format``. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from face_server.domain.embedding import Embedding
from face_server.domain.identity import Collection, Identity, TemplateRecord
from face_server.errors import InputTooLarge, InvalidInput
from face_server.pipeline.transfer_format import (
    FORMAT,
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    VERSION,
    IdentityLine,
    Manifest,
    Member,
    Settings,
    TemplateLine,
    broken,
    joined,
    parse_lines,
    parse_manifest,
    template_line,
    template_of,
)

_MANIFEST = "manifest.json"
_MEMBER = re.compile(r"(?:identities/\d{6}\.jsonl|templates/\d{6}\.jsonl|vectors/\d{6}\.f32|crops/\d{6}\.bin)")
_BLOCK_BYTES = 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)
_END_BYTES = 22
_END64_LOCATOR_BYTES = 20
_MANY = 0xFFFF
_VECTOR = np.dtype("<f4")


class TransferWriter:
    """Writes a new file member by member; it is made with the first. Blocking.

    ``close`` may come from another thread while a cancelled caller's write still runs: it waits
    for that write, and removes what was not finished and moved away.
    """

    def __init__(self, path: Path, *, crops: bool) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._zip: zipfile.ZipFile | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._crops = crops
        self._members: list[Member] = []
        self._pages = {"identities": 0, "templates": 0}
        self.identities = 0
        self.templates = 0

    def add_identities(self, identities: Sequence[Identity]) -> None:
        """Append a page."""
        lines = [IdentityLine(id=one.id, name=one.name, metadata=dict(one.metadata), created_at=one.created_at) for one in identities]
        self._add(f"identities/{self._page('identities'):06}.jsonl", joined(lines))
        self.identities += len(identities)

    def add_templates(self, records: Sequence[TemplateRecord]) -> None:
        """Append a page."""
        page = self._page("templates")
        crops = [record.crop or b"" if self._crops else b"" for record in records]
        lines = [template_line(record, len(crop)) for record, crop in zip(records, crops, strict=True)]
        self._add(f"templates/{page:06}.jsonl", joined(lines))
        self._add(f"vectors/{page:06}.f32", np.stack([record.embedding.vector for record in records]).astype(_VECTOR).tobytes())
        self._add(f"crops/{page:06}.bin", b"".join(crops))
        self.templates += len(records)

    def finish(self, collection: Collection) -> int:
        """Write the manifest and the directory to disk and return the bytes of the file."""
        settings = Settings(
            name=collection.name,
            model=str(collection.model),
            threshold=collection.threshold,
            margin=collection.margin,
            target_fpir=collection.target_fpir,
            keep_crops=collection.keep_crops,
            created_at=collection.created_at,
        )
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            collection=settings,
            identities=self.identities,
            templates=self.templates,
            members=self._members,
        )
        with self._lock:
            file, archive = self._opened()
            archive.writestr(_info(_MANIFEST), manifest.model_dump_json(indent=1).encode())
            archive.close()
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def close(self) -> None:
        """Release the file, and delete it if it is still there. Idempotent."""
        with self._lock, contextlib.ExitStack() as stack:
            self._closed = True
            stack.callback(self._path.unlink, missing_ok=True)
            if self._file is not None and self._zip is not None:
                stack.callback(self._file.close)
                stack.callback(self._zip.close)

    def _page(self, kind: str) -> int:
        page = self._pages[kind]
        self._pages[kind] += 1
        return page

    def _add(self, name: str, data: bytes) -> None:
        if len(data) > MAX_MEMBER_BYTES or len(self._members) + 1 >= MAX_MEMBERS:
            raise InputTooLarge(f"a file may hold {MAX_MEMBERS} members of {MAX_MEMBER_BYTES} bytes; export without crops")
        with self._lock:
            _, archive = self._opened()
            archive.writestr(_info(name), data)
        self._members.append(Member(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))

    def _opened(self) -> tuple[BinaryIO, zipfile.ZipFile]:
        if self._closed:
            raise ValueError("the writer is closed")
        if self._file is None or self._zip is None:
            self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
            self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        return self._file, self._zip


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, 0o600 << 16
    return info


class TransferReader:
    """Reads a file that was checked whole at opening. Blocking; one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open and check ``path``: form, bounds, sizes, every sha256. Raises InvalidInput, InputTooLarge."""
        try:
            _check_directory_size(path)
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise InvalidInput(f"the file cannot be read: {error.strerror}", field="file") from error
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
            raise broken("it is no archive, or incomplete") from error
        try:
            self.manifest = self._check(path.stat().st_size)
        except BaseException:
            self._zip.close()
            raise

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._zip.close()

    def identities(self) -> Iterator[list[Identity]]:
        """Pages of identities; ids rise over all of them."""
        last, count = "", 0
        for name in self._names("identities"):
            lines = parse_lines(IdentityLine, self._read(name), name)
            last, count = _require_rising(last, [line.id for line in lines], name), count + len(lines)
            yield [Identity(line.id, line.name, line.metadata, line.created_at) for line in lines]
        if count != self.manifest.identities:
            raise broken(f"it holds {count} identities, not {self.manifest.identities}")

    def templates(self) -> Iterator[list[TemplateRecord]]:
        """Pages of templates; ids rise over all of them. Norms and vectors are exactly those exported."""
        last, count = "", 0
        for name in self._names("templates"):
            lines = parse_lines(TemplateLine, self._read(name), name)
            last, count = _require_rising(last, [line.id for line in lines], name), count + len(lines)
            yield self._records(lines, name.removeprefix("templates/").removesuffix(".jsonl"))
        if count != self.manifest.templates:
            raise broken(f"it holds {count} templates, not {self.manifest.templates}")

    def _records(self, lines: Sequence[TemplateLine], number: str) -> list[TemplateRecord]:
        model = self.manifest.model
        vectors, crops = self._read(f"vectors/{number}.f32"), self._read(f"crops/{number}.bin")
        if len(vectors) != len(lines) * model.dimension * _VECTOR.itemsize or len(crops) != sum(line.crop_bytes for line in lines):
            raise broken(f"vectors or crops {number} do not match their templates")
        rows = np.frombuffer(vectors, _VECTOR).reshape(len(lines), model.dimension).astype(np.float32)
        found = zip(lines, rows, _cut(crops, lines), strict=True)
        return [TemplateRecord(template_of(line), Embedding(row, line.norm, model), crop) for line, row, crop in found]

    def _names(self, kind: str) -> list[str]:
        return sorted(member.name for member in self.manifest.members if member.name.startswith(f"{kind}/"))

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise broken(f"{name} is missing") from None
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise broken(f"{name} cannot be read") from error

    def _check(self, file_bytes: int) -> Manifest:
        infos = self._zip.infolist()
        names = {info.filename for info in infos}
        if _MANIFEST not in names:
            raise broken("its manifest is missing: it was not exported by face_server, or not completely")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise broken(f"member {info.filename[:80]!r} is compressed or encrypted")
            if info.file_size > MAX_MEMBER_BYTES:
                raise InputTooLarge(
                    f"a member may have {MAX_MEMBER_BYTES} bytes, {info.filename[:80]!r} has {info.file_size}", field="file"
                )
        if len(names) != len(infos) or sum(info.file_size for info in infos) > file_bytes:
            raise broken("its members overlap")
        manifest = parse_manifest(self._read(_MANIFEST))
        listed = {member.name: member for member in manifest.members}
        if len(listed) != len(manifest.members) or listed.keys() | {_MANIFEST} != names or not all(map(_MEMBER.fullmatch, listed)):
            raise broken("its members are not those of its manifest")
        for name, member in listed.items():
            if self._sha256(name) != member.sha256:
                raise broken(f"{name} was altered: its sha256 is not that of the manifest")
        return manifest

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        try:
            with self._zip.open(name) as member:
                while block := member.read(_BLOCK_BYTES):
                    digest.update(block)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise broken(f"{name} cannot be read") from error
        return digest.hexdigest()


def _check_directory_size(path: Path) -> None:
    """Refuse an archive with more members than we write, before its directory is read into memory."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES - _END64_LOCATOR_BYTES))
        tail = file.read()
        mark, members = struct.unpack("<4s6xH", tail[-_END_BYTES:][:12])
        if mark != b"PK\x05\x06":
            raise zipfile.BadZipFile("no end record at the end of the file")
        if members == _MANY:
            locator, end64 = struct.unpack("<4s4xQ", tail[:16])
            file.seek(end64 if locator == b"PK\x06\x07" else size)
            mark, members = struct.unpack("<4s28xQ", file.read(40))
            if mark != b"PK\x06\x06":
                raise zipfile.BadZipFile("no zip64 end record")
    if members > MAX_MEMBERS:
        raise InputTooLarge(f"a file may hold {MAX_MEMBERS} members, this one has {members}", field="file")


def _cut(crops: bytes, lines: Sequence[TemplateLine]) -> Iterator[bytes | None]:
    start = 0
    for line in lines:
        yield crops[start : start + line.crop_bytes] or None
        start += line.crop_bytes


def _require_rising(last: str, ids: Sequence[str], name: str) -> str:
    for one in ids:
        if one <= last:
            raise broken(f"the ids of {name} do not rise")
        last = one
    return last

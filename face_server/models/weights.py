"""Where weights live on disk, and how they get there."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from face_server.domain.network import Network
from face_server.errors import Conflict, InvalidInput, WeightsError
from face_server.models.catalog import CATALOG, CatalogEntry, entry_of
from face_server.models.families import family_of
from face_server.models.prepared import PREPARED, SIDECAR, digest_mismatch, is_prepared, load_network, prepared_fault, write_prepared
from face_server.models.sources import Progress, fetch, find_local, sha256_of, silent

_PUBLISHED = "weights.onnx"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class WeightsState(StrEnum):
    """What is on disk for a network."""

    READY = "ready"
    MISSING = "missing"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class WeightsStatus:
    """One line of ``models list``; ``reason`` says what to do unless ready."""

    entry: CatalogEntry
    state: WeightsState
    reason: str = ""


class WeightsStore:
    """Published weight files and the networks prepared from them, one folder a network.

    ``weights.onnx`` is the published file, ``prepared.onnx`` the network that runs, ``prepared.json``
    its digest and contract. Networks that a user adds are listed in ``catalog.json``. Files appear
    by rename, so a folder may be shared by processes. Everything here blocks: call it from a
    thread.
    """

    def __init__(self, folder: Path, search_paths: Sequence[Path] = (), catalog: Mapping[str, CatalogEntry] = CATALOG) -> None:
        self.folder = folder
        self.search_paths = tuple(search_paths)
        self._built_in = catalog
        self._added_file = folder / "catalog.json"

    @property
    def catalog(self) -> dict[str, CatalogEntry]:
        """Every network by name: the built-in ones, then those a user added."""
        return {**self._built_in, **self._added()}

    def entry(self, name: str) -> CatalogEntry:
        """The catalogue entry called ``name``. Raises NotFound listing the known names."""
        return entry_of(self.catalog, name)

    def network(self, name: str) -> Network:
        """The prepared network called ``name``, its file checked against its digest.

        Uses what is on disk, search folders included; never the network. Raises NotFound for an
        unknown name, WeightsError saying what to do otherwise.
        """
        entry = self.entry(name)
        if not is_prepared(entry, self._folder(entry)):
            source = self._intact_source(entry)
            if source is None:
                raise WeightsError(self._absence(entry))
            self._install(entry, source, silent)
        return load_network(entry, self._folder(entry))

    def published(self, name: str) -> bytes:
        """The published file of the network called ``name``, checked against its digest; raises what ``network`` raises."""
        entry = self.entry(name)
        source = self._intact_source(entry)
        if source is None:
            raise WeightsError(self._absence(entry))
        return source.read_bytes()

    def pull(self, name: str, progress: Progress = silent) -> Network:
        """Make the network called ``name`` ready, downloading it where no folder has it.

        Raises NotFound for an unknown name, WeightsError with the reason of every source that
        failed.
        """
        entry = self.entry(name)
        if is_prepared(entry, self._folder(entry)) and self._digest_fault(entry) is None:
            progress("ready", entry.size_bytes, entry.size_bytes)
            return load_network(entry, self._folder(entry))
        progress("search", 0, entry.size_bytes)
        source = self._intact_source(entry)
        if source is not None:
            self._install(entry, source, progress)
        else:
            self._download(entry, progress)
        progress("ready", entry.size_bytes, entry.size_bytes)
        return load_network(entry, self._folder(entry))

    def install(self, name: str, file: Path) -> Network:
        """Make the network called ``name`` ready from ``file``, for weights that nobody may hand out.

        Raises NotFound for an unknown name, WeightsError naming both digests if it is another file.
        """
        entry = self.entry(name)
        if not file.is_file():
            raise WeightsError(f"{file} is not a file")
        self._install(entry, file, silent)
        return load_network(entry, self._folder(entry))

    def add(self, name: str, file: Path, family: str, *, licence: str = "unknown", commercial_use: bool = False) -> Network:
        """Add a user's own weight ``file`` as ``name``; it stays in the catalogue of this folder.

        The file is copied, prepared and compared with the original before it is listed. Raises
        InvalidInput for a bad name, Conflict for a taken one, WeightsError if the file does not fit
        the family.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} cannot name a network: use up to 64 of a–z, 0–9, '.', '_' and '-'", field="name")
        if name in self.catalog:
            raise Conflict(f"a network called {name} exists already")
        family_of(family)
        if not file.is_file():
            raise WeightsError(f"{file} is not a file")
        entry = CatalogEntry(name, family, licence, commercial_use, sha256_of(file), file.stat().st_size, file.name)
        self._install(entry, file, silent)
        entries = [asdict(other) for other in (*self._added().values(), entry)]
        with self._writing(self._added_file) as temporary:
            temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False))
        return load_network(entry, self._folder(entry))

    def remove(self, name: str) -> None:
        """Delete the files of ``name``; a network that a user added leaves the catalogue too."""
        entry = self.entry(name)
        entries = [asdict(other) for other in self._added().values() if other.name != name]
        if name not in self._built_in:
            with self._writing(self._added_file) as temporary:
                temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False))
        shutil.rmtree(self._folder(entry), ignore_errors=True)

    def list(self) -> tuple[WeightsStatus, ...]:
        """What is on disk for every network of the catalogue, digests checked."""
        return tuple(self._status(entry) for entry in self.catalog.values())

    def verify(self) -> tuple[WeightsStatus, ...]:
        """The networks whose files are on disk but cannot be trusted; empty when all is well."""
        return tuple(status for status in self.list() if status.state is WeightsState.CORRUPT)

    def _status(self, entry: CatalogEntry) -> WeightsStatus:
        if not (self._folder(entry) / _PUBLISHED).exists():
            if find_local(entry, self.search_paths) is not None:
                return WeightsStatus(entry, WeightsState.READY)
            return WeightsStatus(entry, WeightsState.MISSING, self._absence(entry))
        fault = self._digest_fault(entry)
        return WeightsStatus(entry, WeightsState.READY) if fault is None else WeightsStatus(entry, WeightsState.CORRUPT, fault)

    def _absence(self, entry: CatalogEntry) -> str:
        if entry.sources:
            return f"the weights of {entry.name} are not here; fetch them with: face-server models pull {entry.name}"
        advice = f"add your own file with: face-server models add {entry.name} --file {entry.file_name}"
        return f"the weights of {entry.name} are not here and cannot be downloaded; {advice}"

    def _digest_fault(self, entry: CatalogEntry) -> str | None:
        """What is wrong with the published or the prepared file on disk, as a sentence."""
        source = self._folder(entry) / _PUBLISHED
        digest = sha256_of(source) if source.is_file() else "nothing"
        if digest != entry.sha256:
            return digest_mismatch(f"weight file of {entry.name} is not the published one", entry.sha256, digest)
        return prepared_fault(entry, self._folder(entry))

    def _intact_source(self, entry: CatalogEntry) -> Path | None:
        """The published file, in its own folder or in a search folder."""
        own = self._folder(entry) / _PUBLISHED
        if own.is_file() and sha256_of(own) == entry.sha256:
            return own
        return find_local(entry, self.search_paths)

    def _download(self, entry: CatalogEntry, progress: Progress) -> None:
        if not entry.sources:
            raise WeightsError(self._absence(entry))
        reasons = []
        with self._scratch(entry) as scratch:
            for source in entry.sources:
                target = scratch / "download"
                try:
                    fetch(source, target, entry.size_bytes, progress)
                    self._install(entry, target, progress)
                except WeightsError as error:
                    reasons.append(error.message)
                else:
                    return
        raise WeightsError(f"the weights of {entry.name} could not be fetched: {'; '.join(reasons)}")

    def _install(self, entry: CatalogEntry, file: Path, progress: Progress) -> None:
        """Check ``file``, copy it into place and prepare the network; the record of its digest is last."""
        progress("check", 0, entry.size_bytes)
        data = file.read_bytes()
        folder = self._folder(entry)
        with self._scratch(entry) as scratch:
            copy = scratch / _PUBLISHED
            copy.write_bytes(data)
            digest = sha256_of(copy)
            if digest != entry.sha256:
                raise WeightsError(digest_mismatch(f"weight file of {entry.name} is not the published one", entry.sha256, digest))
            progress("prepare", 0, entry.size_bytes)
            write_prepared(entry, data, scratch)
            for part in (copy, scratch / PREPARED, scratch / SIDECAR):
                part.replace(folder / part.name)

    def _added(self) -> dict[str, CatalogEntry]:
        if not self._added_file.is_file():
            return {}
        try:
            entries = json.loads(self._added_file.read_text())
            return {item["name"]: CatalogEntry(**{**item, "sources": ()}) for item in entries}
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError(f"{self._added_file} is not readable as a list of networks; restore or delete it") from error

    def _folder(self, entry: CatalogEntry) -> Path:
        return self.folder / entry.name

    @contextmanager
    def _scratch(self, entry: CatalogEntry) -> Iterator[Path]:
        """A folder on the same file system for files that are not complete yet."""
        try:
            self._folder(entry).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=self._folder(entry), ignore_cleanup_errors=True) as name:
                yield Path(name)
        except OSError as error:
            raise WeightsError(f"weights cannot be written to {self._folder(entry)}: {error.strerror or error}") from error

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Path]:
        """A temporary file that replaces ``path`` at once when the block ends well."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=self.folder) as name:
                temporary = Path(name) / path.name
                yield temporary
                temporary.replace(path)
        except OSError as error:
            raise WeightsError(f"{path} cannot be written: {error.strerror or error}") from error

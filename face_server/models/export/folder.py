"""Model folders on disk: complete when they appear, untouched where nothing changed."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from face_server.errors import Conflict, WeightsError
from face_server.models.export.config import MARK

CONFIG: Final = "config.pbtxt"
VERSION: Final = "1"
WEIGHTS: Final = "model.onnx"
SHAPES: Final = "trtexec.args"
NOTE: Final = "weights.txt"
LABELS: Final = "labels.txt"

_WRITTEN: Final = frozenset(
    {CONFIG, NOTE, LABELS, SHAPES, WEIGHTS, *(f"{VERSION}/{name}" for name in (WEIGHTS, "model.py", "networks.json", ".gitkeep"))}
)
"""Everything an export ever writes into the folder of a model; anything else there was added later."""

_INCOMPLETE: Final = ".incomplete-"
"""How the folders begin in which models are made."""

_DECIDING: Final = (WEIGHTS, SHAPES)
"""What an engine is built from. While these are equal, what was added to the folder stays."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of one model: its files by relative path, as bytes or as the file to copy."""

    name: str
    files: Mapping[str, bytes | Path]


def require_repository(folder: Path, *, force: bool) -> None:
    """Raise Conflict if ``folder`` holds something, but no model that an export wrote, unless ``force``."""
    if force or not folder.exists():
        return
    if not folder.is_dir():
        raise Conflict(f"{folder} is not a folder")
    found = [child for child in folder.iterdir() if not child.name.startswith(_INCOMPLETE)]
    if found and not any(map(_is_ours, found)):
        raise Conflict(f"{folder} is not empty and no model repository that was exported before; name another folder or use --force")


@contextlib.contextmanager
def only_writer(repository: Path) -> Iterator[None]:
    """Make ``repository`` if need be, keep other exports out of it, and remove what one that was killed has left there.

    To Triton, which passes no folder over, that would be a model that cannot be loaded. Raises
    Conflict while another export runs, WeightsError if the disk refuses.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        file = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise WeightsError(f"{repository} cannot be written: {error.strerror or error}") from error
    try:
        # The kernel lets go of the lock when this process ends, however it ends.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in repository.glob(f"{_INCOMPLETE}*"):
            shutil.rmtree(folder)
    except BlockingIOError as error:
        os.close(file)
        raise Conflict(f"another export writes into {repository}; try again when it is done") from error
    except OSError as error:
        os.close(file)
        raise WeightsError(f"{repository} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        os.close(file)


def write_model(repository: Path, model: ModelFolder, *, force: bool) -> bool:
    """Put ``model`` into ``repository``, as its only writer; False if it is there already, file by file.

    The folder is made beside the others under a hidden name and renamed when it is complete.
    Engines and caches that were built into the old folder move along unless the network or its
    shapes changed. Raises Conflict for a folder of that name that no export wrote (``force``
    replaces it), WeightsError if the disk refuses.
    """
    target = repository / model.name
    if target.exists() and not _is_ours(target) and not force:
        raise Conflict(f"{target} was not written by an export; remove it or use --force")
    try:
        if _is_current(target, model):
            return False
        with tempfile.TemporaryDirectory(prefix=_INCOMPLETE, dir=repository) as scratch:
            fresh = Path(scratch) / model.name
            _fill(fresh, model)
            if target.exists():
                _keep_added(target, fresh)
                target.rename(Path(scratch) / "replaced")
            fresh.rename(target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror or error}") from error
    return True


def _is_ours(folder: Path) -> bool:
    config = folder / CONFIG
    return config.is_file() and config.read_text(errors="replace").startswith(MARK)


def _is_current(target: Path, model: ModelFolder) -> bool:
    written = {path for path in _WRITTEN if (target / path).is_file()}
    return written == set(model.files) and all(_equal(target / path, content) for path, content in model.files.items())


def _equal(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, Path):
        return filecmp.cmp(path, content, shallow=False)
    return path.stat().st_size == len(content) and path.read_bytes() == content


def _fill(folder: Path, model: ModelFolder) -> None:
    # Triton refuses a model without a folder for its version.
    (folder / VERSION).mkdir(parents=True)
    for path, content in model.files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / path)
        else:
            (folder / path).write_bytes(content)
    # Servers often run as somebody else.
    folder.chmod(0o755)


def _keep_added(old: Path, fresh: Path) -> None:
    """Copy what somebody else put into ``old`` unless it may have been built from another network."""
    if any(_content(old / path) != _content(fresh / path) for path in _DECIDING):
        return
    for path in sorted(old.rglob("*")):
        place = path.relative_to(old)
        if path.is_file() and str(place) not in _WRITTEN:
            (fresh / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, fresh / place)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None

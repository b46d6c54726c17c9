"""Picture files on this machine: which to take, whom they show, and their bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from face_server.errors import InputTooLarge, InvalidInput, NotFound

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Endings of the formats that the codec decodes."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture file and the name of the person it shows."""

    path: Path
    person: str


def find_photos(folder: Path) -> tuple[list[Photo], list[Path]]:
    """The photos of a people folder, by name, and the files left out because they are no pictures.

    A folder inside ``folder`` is a person (with every picture below it); a picture directly inside
    is a person named by its file. Hidden files are passed over. Raises NotFound for no folder and
    InvalidInput for a folder without pictures.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", field="folder")
    photos: list[Photo] = []
    left_out: list[Path] = []
    for path in _visible_files(folder):
        if path.suffix.lower() not in SUFFIXES:
            left_out.append(path)
            continue
        inside = path.relative_to(folder)
        photos.append(Photo(path, _person(inside.stem if len(inside.parts) == 1 else inside.parts[0])))
    if not photos:
        raise InvalidInput(
            f"{folder} holds no pictures: a folder a person, or a photo a person named by its file, is expected", field="folder"
        )
    return photos, left_out


def read_picture(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, its size checked first. Raises NotFound, InputTooLarge, InvalidInput."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputTooLarge(f"{path} has {size} bytes, at most {max_bytes} are allowed (FACE_SERVER_IMAGES__MAX_BYTES)", field="file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", field="file") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="file") from error


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _visible_files(path)
        elif path.is_file():
            yield path


def _person(name: str) -> str:
    # File systems differ in how they write é; the name of a person must not.
    return unicodedata.normalize("NFC", name).strip()

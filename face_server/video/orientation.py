"""EXIF orientation: which way is up."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from face_server.domain.image import Pixels

_EXIF_HEADER = b"Exif\x00\x00"
_ORIENTATION_TAG = 0x0112
_START_OF_SCAN = 0xDA
_APP1 = 0xE1


def jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a JPEG; 1 where it states none or none that can be read.

    Walks the marker segments before the first scan (ITU-T T.81, B.1.1).
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            position += 1
            continue
        if marker == _START_OF_SCAN:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length] if marker == _APP1 else b""
        if segment.startswith(_EXIF_HEADER):
            return exif_orientation(segment)
        position += 2 + max(2, length)
    return 1


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 in an EXIF block (TIFF 6.0, section 2), with or without its header; otherwise 1."""
    block = exif.removeprefix(_EXIF_HEADER)
    order: Literal["little", "big"]
    if block.startswith(b"II*\x00"):
        order = "little"
    elif block.startswith(b"MM\x00*"):
        order = "big"
    else:
        return 1
    directory = int.from_bytes(block[4:8], order)
    entries = int.from_bytes(block[directory : directory + 2], order)
    for start in range(directory + 2, min(directory + 2 + 12 * entries, len(block) - 11), 12):
        if int.from_bytes(block[start : start + 2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(block[start + 8 : start + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror stored ``pixels`` so that they show the picture upright; contiguous."""
    turned: object = pixels
    match orientation:
        case 2:
            turned = cv2.flip(pixels, 1)
        case 3:
            turned = cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:
            turned = cv2.flip(pixels, 0)
        case 5:
            turned = cv2.transpose(pixels)
        case 6:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            turned = cv2.flip(cv2.transpose(pixels), -1)
        case 8:
            turned = cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return np.asarray(turned, np.uint8)

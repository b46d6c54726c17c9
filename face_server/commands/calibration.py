"""``python -m face_server.commands.calibration``: a detector of a model repository in eight bits, as deploy_trt.sh asks for it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from onnxruntime import InferenceSession

from face_server.commands.options import load_settings
from face_server.commands.pictures import find_photos, read_picture
from face_server.commands.terminal import UNUSABLE, complain, out
from face_server.domain.network import served_name
from face_server.domain.ports import Tensors
from face_server.errors import FaceServerError, InvalidImage, NotFound
from face_server.models.detector import detect_with
from face_server.models.eight_bits import in_eight_bits, noted, notes_of
from face_server.models.weights import WeightsStore
from face_server.video.images import ImageLimits, decode_image

_MOST: Final = 300
"""Pictures of a larger folder are taken evenly; more change the ranges no further."""

_NOTE: Final = "calibrated_on"


def calibrate(
    repository: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="A model repository exported to tensorrt.", file_okay=False)],
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Pictures with faces, as cameras show them.", file_okay=False)],
    detector: Annotated[str, typer.Option("--detector", metavar="NAME", help="The network.")] = "yunet",
) -> None:
    """Write model.int8.onnx beside model.onnx of the detector, unless it is there for these very pictures."""
    settings = load_settings()
    place = repository / served_name(detector)
    source, target = place / "model.onnx", place / "model.int8.onnx"
    if not source.is_file():
        raise NotFound(f"there is no {source}; export the repository with --to tensorrt first")
    graph = source.read_bytes()
    photos = [photo.path for photo in find_photos(pictures)[0]]
    photos = photos[:: -(-len(photos) // _MOST)]
    digest = hashlib.sha256(graph)
    for path in photos:
        digest.update(hashlib.sha256(read_picture(path, settings.images.max_bytes)).digest())
    if target.is_file() and notes_of(target.read_bytes()).get(_NOTE) == digest.hexdigest():
        out.print(f"{detector} is calibrated on these pictures already")
        return
    limits = ImageLimits(settings.images.max_bytes, settings.images.max_pixels)
    store = WeightsStore(settings.weights_folder, settings.models_path)
    samples = _inputs(store, detector, photos, limits, settings.analysis.max_size_px)
    result = noted(in_eight_bits(graph, samples), {_NOTE: digest.hexdigest()})
    incomplete = target.with_suffix(".incomplete")
    incomplete.write_bytes(result)
    incomplete.replace(target)
    out.print(f"{detector} is calibrated on {len(photos)} pictures")


def _inputs(store: WeightsStore, detector: str, photos: list[Path], limits: ImageLimits, max_size_px: int) -> Iterator[Tensors]:
    """What the detector is given for each picture that can be decoded, one at a time."""
    entry, network = store.entry(detector), store.network(detector)
    session = InferenceSession(network.path, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in network.outputs]
    seen: list[Tensors] = []

    def run(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    detect = detect_with(entry, run, second_pass=False)
    for path in photos:
        try:
            image = decode_image(read_picture(path, limits.max_bytes), limits)
        except InvalidImage as error:
            complain(f"{path} is left out: {error.message}")
            continue
        detect(image, entry.detection_score, max_size_px)
        yield seen.pop()


if __name__ == "__main__":
    try:
        typer.run(calibrate)
    except FaceServerError as error:
        complain(error.message)
        sys.exit(UNUSABLE)

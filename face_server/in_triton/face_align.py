"""The model ``face_align``: between detector and embedder of an ensemble, for frames of one fixed size, without BLS.

Inputs are ``frame`` (uint8 H×W×3 or 1×H×W×3 BGR, both sides multiples of the detector's stride; it
goes to the detector as it is) and what the detector says of it, by the names of its outputs.
Outputs, in frame pixels, highest score first: ``crops`` n×112×112×3, ``boxes`` n×4, ``scores`` n,
``landmarks`` n×5×2 and ``count``. An ensemble cannot leave out its embedder, and that cannot run on
nothing: a frame without faces gives one black crop in a row of zeros, and ``count`` 0. Clients keep
the first ``count`` rows of every output, the embedder's ``features`` too.

Parameters of ``config.pbtxt``: ``max_faces`` (the largest are kept; at most ``max_batch_size`` of the
embedder) and ``min_score_percent`` (the detector's own if unset). ``networks.json`` see ``in_triton.networks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from face_server.domain.alignment import CROP_SIZE_PX, aligned_crops
from face_server.domain.face import Detection
from face_server.domain.image import Image
from face_server.domain.ports import AnalysisOptions
from face_server.errors import FaceServerError, InvalidInput
from face_server.in_triton.networks import read_networks
from face_server.in_triton.parameters import whole_number
from face_server.in_triton.responses import breakdown, cancelled, chosen, refusal
from face_server.models.detector import read_detections
from face_server.models.families import detector_family
from face_server.pipeline.analysis import choose_faces

NAME: Final = "face_align"

_MAX_FACES = 16


class TritonPythonModel:
    """One instance: answers one frame after the other."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read configuration and contract of the detector. Triton does not load the model if that fails, and says why."""
        try:
            detector = read_networks(args).detector
            self._max_faces = whole_number(args, "max_faces", _MAX_FACES)
            self._min_score = whole_number(args, "min_score_percent", round(100 * detector.entry.detection_score)) / 100
        except FaceServerError as error:
            raise pb_utils.TritonModelException(error.message) from error
        self._entry = detector.entry
        self._raw = tuple(spec.name for spec in detector.network.outputs)
        self._stride = detector_family(detector.entry.family).recipe.contract.stride

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; one that fails does not touch the others."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        if request.is_cancelled():
            return cancelled()
        try:
            return chosen(self._aligned(request), request)
        except FaceServerError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - the boundary: no request may take the instance, or its neighbours, with it
            return breakdown(NAME, error)

    def _aligned(self, request: Any) -> dict[str, NDArray[Any]]:
        frame = pb_utils.get_input_tensor_by_name(request, "frame").as_numpy()
        if frame.ndim == 4 and len(frame) != 1:
            raise InvalidInput(f"{NAME} takes one frame a request, got {len(frame)}", field="frame")
        image = Image.from_pixels(frame.reshape(frame.shape[-3:]))
        if image.width % self._stride or image.height % self._stride:
            raise InvalidInput(
                f"both sides of a frame must be multiples of {self._stride}, got {image.width}×{image.height}", field="frame"
            )
        raw = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._raw}
        (found,) = read_detections(self._entry, raw, image.width, image.height, self._min_score)
        return outputs(image, choose_faces(found, image, AnalysisOptions(max_faces=self._max_faces)))


def outputs(image: Image, faces: Sequence[Detection]) -> dict[str, NDArray[Any]]:
    """What is answered for ``faces`` of ``image``; one row of zeros where there are none."""
    rows = max(1, len(faces))
    tensors: dict[str, NDArray[Any]] = {
        "crops": np.zeros((rows, CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8),
        "boxes": np.zeros((rows, 4), np.float32),
        "scores": np.zeros(rows, np.float32),
        "landmarks": np.zeros((rows, 5, 2), np.float32),
        "count": np.array([len(faces)], np.int32),
    }
    if faces:
        tensors["crops"][:] = aligned_crops(image.pixels, faces)
        tensors["boxes"][:] = [(face.box.x1, face.box.y1, face.box.x2, face.box.y2) for face in faces]
        tensors["scores"][:] = [face.score for face in faces]
        tensors["landmarks"][:] = [face.landmarks for face in faces]
    return tensors

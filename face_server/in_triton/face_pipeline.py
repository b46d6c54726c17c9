"""The model ``face_pipeline``: one picture, or aligned crops, to faces in one call; its wire format is ``domain.face_pipeline``.

Parameters of ``config.pbtxt``: ``max_bytes`` and ``max_pixels`` bound what is decoded, whatever the
caller allows; ``networks``, ``embed_batch`` and ``embed_calls`` see ``in_triton.faces``;
``networks.json`` see ``in_triton.networks``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from face_server.domain.alignment import CROP_SIZE_PX
from face_server.domain.face_pipeline import INPUTS, NAME, Question, answer
from face_server.domain.image import Image
from face_server.domain.ports import Analysis
from face_server.errors import ConfigurationError, FaceServerError, InputTooLarge, InvalidInput
from face_server.in_triton.faces import Faces
from face_server.in_triton.networks import read_networks
from face_server.in_triton.parameters import whole_number
from face_server.in_triton.questions import read_question
from face_server.in_triton.responses import breakdown, cancelled, chosen, refusal
from face_server.video.images import ImageLimits, decode_image

_PICTURES = tuple(spec.name for spec in INPUTS if spec.name != "options")


class TritonPythonModel:
    """One instance: answers one request after the other; more at a time are more instances."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read configuration and contract of the networks. Triton does not load the model if that fails, and says why."""
        try:
            self._limits = picture_limits(args)
            self._faces = Faces(read_networks(args), args)
        except FaceServerError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; one that fails does not touch the others."""
        return [self._response(request) for request in requests]

    def finalize(self) -> None:
        """Let go."""
        self._faces.close()

    def _response(self, request: Any) -> Any:
        if request.is_cancelled():
            return cancelled()
        try:
            return chosen(answer(self._analysis(request), self._faces.model), request)
        except FaceServerError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - the boundary: no request may take the instance, or its neighbours, with it
            return breakdown(NAME, error)

    def _analysis(self, request: Any) -> Analysis:
        given = {name: tensor for name in _PICTURES if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None}
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise InvalidInput(f"{NAME} takes exactly one of the inputs {', '.join(_PICTURES)}; got {got}", field="inputs")
        options = pb_utils.get_input_tensor_by_name(request, "options")
        question = read_question(None if options is None else options.as_numpy())
        ((kind, tensor),) = given.items()
        pixels = tensor.as_numpy()
        if kind == "encoded":
            return self._of_encoded(pixels.tobytes(), question)
        self._check_pixels(pixels.size // 3)
        if kind == "frame":
            image = question.image(pixels)
            return self._of(image, question, 0.0)
        faces = self._faces.of_crops(pixels, question.analysis)
        return Analysis(CROP_SIZE_PX, CROP_SIZE_PX, tuple(faces), 0.0)

    def _of_encoded(self, data: bytes, question: Question) -> Analysis:
        started = time.perf_counter()
        image = self._decoded(data, question)
        decode_ms = 1000 * (time.perf_counter() - started)
        return self._of(image, question, decode_ms)

    def _of(self, image: Image, question: Question, decode_ms: float) -> Analysis:
        faces = self._faces.of(image, question.analysis, second_pass=question.second_pass)
        return Analysis(image.source_width, image.source_height, tuple(faces), decode_ms)

    def _decoded(self, data: bytes, question: Question) -> Image:
        limits = replace(
            self._limits,
            max_bytes=min(self._limits.max_bytes, question.max_bytes or self._limits.max_bytes),
            max_pixels=min(self._limits.max_pixels, question.max_pixels or self._limits.max_pixels),
        )
        # A scaled decode is enough to find faces; embeddings of small ones would differ from those of a full decode.
        return decode_image(data, limits, None if question.analysis.embed else question.analysis.max_size_px)

    def _check_pixels(self, pixels: int) -> None:
        if pixels > self._limits.max_pixels:
            raise InputTooLarge(f"the picture has {pixels} pixels, at most {self._limits.max_pixels} are allowed")


def picture_limits(args: Mapping[str, str]) -> ImageLimits:
    """``max_bytes`` and ``max_pixels`` of ``config.pbtxt``. Raises ConfigurationError where they cannot be."""
    usual = ImageLimits()
    max_bytes, max_pixels = whole_number(args, "max_bytes", usual.max_bytes), whole_number(args, "max_pixels", usual.max_pixels)
    try:
        return ImageLimits(max_bytes, max_pixels)
    except ValueError as error:
        raise ConfigurationError(f"parameters of {args['model_name']}: {error}") from error

"""One network on ONNX Runtime inside of Triton's Python backend.

For servers without Triton's own ONNX Runtime or TensorRT backends. Each instance has a session of
one thread, as the embedded backend: as many inferences run at once as ``instance_group`` has
instances.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.domain.network import Network, TensorSpec
from face_server.domain.ports import Tensors
from face_server.errors import FaceServerError, InvalidInput, NotFound, Overloaded, Unavailable
from face_server.workers import Workers

WEIGHTS: Final = "model.onnx"

_DTYPES: Final[Mapping[str, str]] = {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64", "TYPE_BOOL": "bool"}
# By name: Triton completes pb_utils only after it has imported the model.
_CODES: Final[Sequence[tuple[type[FaceServerError], str]]] = (
    (InvalidInput, "INVALID_ARG"),
    (NotFound, "NOT_FOUND"),
    (Overloaded, "UNAVAILABLE"),
    (Unavailable, "UNAVAILABLE"),
)


class TritonPythonModel:
    """Runs ``model.onnx``, which lies beside ``model.py``, by the names and dtypes of ``config.pbtxt``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session of this instance. Triton does not load the model if that fails, and says why."""
        network = network_of(args)
        on_gpu = args["model_instance_kind"] == "GPU"
        options = OnnxOptions(provider="cuda", device=int(args["model_instance_device_id"])) if on_gpu else OnnxOptions(provider="cpu")
        self._workers = Workers(1)
        try:
            self._backend = OnnxBackend([network], self._workers, options)
        except FaceServerError as error:
            self._workers.close()
            raise pb_utils.TritonModelException(error.message) from error
        self._network = network
        run = self._backend.runner(network.name)
        assert run is not None
        self._run = run

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer ``requests``; those that Triton's scheduler brought together run as one batch."""
        cancelled = [request.is_cancelled() for request in requests]
        answers = iter(self._answers([request for request, over in zip(requests, cancelled, strict=True) if not over]))
        return [_refusal("the request was cancelled", "CANCELLED") if over else next(answers) for over in cancelled]

    def finalize(self) -> None:
        """Let go of the session."""
        self._workers.close()

    def _answers(self, requests: Sequence[Any]) -> list[Any]:
        if not requests:
            return []
        try:
            asked = [self._inputs(request) for request in requests]
            outputs = self._run(asked[0] if len(asked) == 1 else _joined(asked))
        except FaceServerError as error:
            return [refusal(error) for _ in requests]
        answers = []
        start = 0
        for request, inputs in zip(requests, asked, strict=True):
            end = start + len(next(iter(inputs.values())))
            wanted = request.requested_output_names()
            part = outputs if len(requests) == 1 else {name: tensor[start:end] for name, tensor in outputs.items()}
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, part[name]) for name in wanted]))
            start = end
        return answers

    def _inputs(self, request: Any) -> dict[str, Any]:
        return {spec.name: pb_utils.get_input_tensor_by_name(request, spec.name).as_numpy() for spec in self._network.inputs}


def network_of(args: Mapping[str, str]) -> Network:
    """The network that ``initialize`` is told about: its file, and its tensors by ``config.pbtxt``."""
    config = json.loads(args["model_config"])
    batch: tuple[None, ...] = (None,) if config["max_batch_size"] else ()
    path = Path(args["model_repository"]) / args["model_version"] / WEIGHTS
    return Network(config["name"], path, _specs(config["input"], batch), _specs(config["output"], batch))


def refusal(error: FaceServerError) -> Any:
    """The response that carries ``error`` to the caller, with the code of its kind."""
    return _refusal(error.message, next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL"))


def _refusal(text: str, code: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))


def _joined(asked: Sequence[Tensors]) -> dict[str, Any]:
    return {name: np.concatenate([inputs[name] for inputs in asked]) for name in asked[0]}


def _specs(tensors: Sequence[Mapping[str, Any]], batch: tuple[None, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor["name"],
            _DTYPES.get(tensor["data_type"], tensor["data_type"].removeprefix("TYPE_").lower()),
            (*batch, *(int(size) if int(size) >= 0 else None for size in tensor["dims"])),
        )
        for tensor in tensors
    )

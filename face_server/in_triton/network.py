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
from face_server.errors import FaceServerError
from face_server.in_triton.responses import cancelled, chosen, plain_refusal
from face_server.workers import Workers

WEIGHTS: Final = "model.onnx"

_DTYPES: Final[Mapping[str, str]] = {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64", "TYPE_BOOL": "bool"}


class TritonPythonModel:
    """Runs ``model.onnx``, which lies beside ``model.py``, by the names and dtypes of ``config.pbtxt``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session of this instance. Triton does not load the model if that fails, and says why."""
        network = network_of(args)
        on_gpu = args["model_instance_kind"] == "GPU"
        options = OnnxOptions(provider="cuda", device=int(args["model_instance_device_id"])) if on_gpu else OnnxOptions(provider="cpu")
        try:
            # The threads are for those who await; calls of the runner need none.
            with Workers(1) as workers:
                run = OnnxBackend([network], workers, options).runner(network.name)
        except FaceServerError as error:
            raise pb_utils.TritonModelException(error.message) from error
        assert run is not None
        self._network, self._run = network, run

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer ``requests``; those that Triton's scheduler brought together run as one batch."""
        gone = [request.is_cancelled() for request in requests]
        answers = iter(self._answers([request for request, over in zip(requests, gone, strict=True) if not over]))
        return [cancelled() if over else next(answers) for over in gone]

    def finalize(self) -> None:
        """Let go of the session."""
        del self._run

    def _answers(self, requests: Sequence[Any]) -> list[Any]:
        if not requests:
            return []
        try:
            asked = [self._inputs(request) for request in requests]
            outputs = self._run(asked[0] if len(asked) == 1 else _joined(asked))
        except FaceServerError as error:
            return [plain_refusal(error) for _ in requests]
        answers = []
        start = 0
        for request, inputs in zip(requests, asked, strict=True):
            end = start + len(next(iter(inputs.values())))
            part = outputs if len(requests) == 1 else {name: tensor[start:end] for name, tensor in outputs.items()}
            answers.append(chosen(part, request))
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

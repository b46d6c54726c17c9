"""Networks that are other models of the server, called from within one: Triton's business logic scripting."""

from __future__ import annotations

from typing import Final

import triton_python_backend_utils as pb_utils

from face_server.domain.network import Network, served_name
from face_server.domain.ports import Runner, Tensors
from face_server.errors import FaceServerError, Overloaded, Unavailable

_NOT_LOADED: Final = ("is not ready", "unknown model", "is not found", "no version is available")
_FULL: Final = ("maximum queue size", "timeout expired")


def runner(network: Network) -> Runner:
    """A function that runs ``network`` in the thread that calls it; threads may call it side by side.

    Outputs are NumPy arrays in host memory, wherever the network runs. Raises Unavailable while the
    model is not loaded, Overloaded while its queue is full, FaceServerError for whatever else it
    answers instead of tensors; one sentence each.
    """
    name = served_name(network.name)
    outputs = [spec.name for spec in network.outputs]
    in_host_memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    def run(inputs: Tensors) -> Tensors:
        request = pb_utils.InferenceRequest(
            model_name=name,
            requested_output_names=outputs,
            inputs=[pb_utils.Tensor(tensor, values) for tensor, values in inputs.items()],
            preferred_memory=in_host_memory,
        )
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise _fault(name, str(error)) from error
        if response.has_error():
            raise _fault(name, response.error().message())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    return run


def _fault(model: str, text: str) -> FaceServerError:
    """What an answer without tensors means. Triton tells by its text alone what is behind it."""
    reason = text.strip().partition("\n")[0][:300]
    if any(part in reason for part in _NOT_LOADED):
        return Unavailable(f"the model {model} is not loaded")
    if any(part in reason for part in _FULL):
        return Overloaded(f"the model {model} has too much to do")
    return FaceServerError(f"the model {model} failed: {reason}")

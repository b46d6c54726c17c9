"""What a model on a server must be, compared with what the server says it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.utils import triton_to_np_dtype

from face_server.backends.contract import describe
from face_server.domain import face_pipeline
from face_server.domain.embedding import ModelId
from face_server.domain.network import Network, TensorSpec, served_name
from face_server.errors import ConfigurationError, FaceServerError, WeightsError

_log = logging.getLogger(__name__)

WEIGHTS_PARAMETER: Final = "weights_sha256"
"""The parameter of a model's configuration that holds the sha256 of the published weights."""

_DETECTOR: Final = "detector"
_EMBEDDINGS: Final = "embeddings"

_UNSAID: Final = {
    WEIGHTS_PARAMETER: "which weights it runs",
    _DETECTOR: "with what it finds faces",
    _EMBEDDINGS: "whose embeddings it makes",
}
_OTHER: Final = {
    WEIGHTS_PARAMETER: "runs other weights: their sha256",
    _DETECTOR: "finds faces with another network: its detector",
    _EMBEDDINGS: "makes other embeddings: their model",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """A model this service needs: its name on the server, its tensors, and what its configuration must say of itself.

    ``parameters`` are the permitted values of parameters; ``error`` is what a difference is raised as.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, frozenset[str]]
    error: type[FaceServerError]


def of_network(network: Network) -> Expected:
    """What the server must run for ``network``."""
    weights = {WEIGHTS_PARAMETER: frozenset({network.digest})} if network.digest else {}
    return Expected(served_name(network.name), network.inputs, network.outputs, weights, WeightsError)


def of_pipeline(model: ModelId, networks: Sequence[Network]) -> Expected:
    """What ``face_pipeline`` must be for embeddings of ``model``: it finds faces with one of ``networks``."""
    detectors = frozenset(served_name(network.name) for network in networks if network.name != model.name)
    parameters = {_DETECTOR: detectors, _EMBEDDINGS: frozenset({str(model)})}
    return Expected(face_pipeline.NAME, face_pipeline.INPUTS, face_pipeline.outputs(model.dimension), parameters, ConfigurationError)


def compare(expected: Expected, metadata: Any, config: Any, endpoint: str) -> int:
    """The most rows a call of the model may have, 0 for no limit.

    ``metadata`` is a ModelMetadataResponse and ``config`` a ModelConfig. Raises the error of
    ``expected`` for the first difference, in a sentence that names the tensor and both sides.
    A dimension that varies here must vary there; one that is fixed here may vary there.
    """
    subject = f"model {expected.model!r} on Triton at {endpoint}"
    _compare_parameters(expected, config, subject)
    optional = {part.name for part in config.input if part.optional}
    inputs, outputs = _tensors(metadata.inputs), _tensors(metadata.outputs)
    _compare_tensors(expected, "input", expected.inputs, inputs, subject)
    _compare_tensors(expected, "output", expected.outputs, outputs, subject)
    if surplus := inputs.keys() - {spec.name for spec in expected.inputs} - optional:
        raise expected.error(f"{subject} also wants the input {min(surplus)!r}, which this service does not have")
    return int(config.max_batch_size)


def _compare_parameters(expected: Expected, config: Any, subject: str) -> None:
    for name, permitted in expected.parameters.items():
        said = config.parameters[name].string_value if name in config.parameters else ""
        if not said:
            _log.warning("%s does not say %s (parameter %s): it is taken on trust", subject, _UNSAID[name], name)
        elif said not in permitted:
            raise expected.error(f"{subject} {_OTHER[name]} must be {_listed(permitted)}, is {said}")


def _compare_tensors(expected: Expected, kind: str, wanted: Sequence[TensorSpec], actual: Mapping[str, TensorSpec], subject: str) -> None:
    for spec in wanted:
        other = actual.get(spec.name)
        if other is None:
            raise expected.error(
                f"{subject} has no {kind} {spec.name!r}, which must be {describe(spec.dtype, spec.shape)}; it has {_listed(actual)}"
            )
        if other.dtype != spec.dtype or not _serves(other.shape, spec.shape, varying=kind == "input"):
            raise expected.error(
                f"the {kind} {spec.name!r} of {subject} must be {describe(spec.dtype, spec.shape)}, is {describe(other.dtype, other.shape)}"
            )


def _serves(actual: Sequence[int | None], wanted: Sequence[int | None], *, varying: bool) -> bool:
    """Whether each dimension fits; with ``varying`` one that must vary does so on the server too."""
    return len(actual) == len(wanted) and all(
        theirs is None or ours == theirs or (ours is None and not varying) for theirs, ours in zip(actual, wanted, strict=True)
    )


def _tensors(parts: Iterable[Any]) -> dict[str, TensorSpec]:
    return {
        part.name: TensorSpec(part.name, _dtype(part.datatype), tuple(None if size < 0 else int(size) for size in part.shape))
        for part in parts
    }


def _dtype(datatype: str) -> str:
    known = triton_to_np_dtype(datatype)
    return datatype if known is None else np.dtype(known).name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

"""Checks every backend makes before it hands tensors to a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from face_server.domain.network import Network, TensorSpec
from face_server.domain.ports import Tensors
from face_server.errors import InvalidInput, NotFound, WeightsError


def describe(dtype: str, shape: Sequence[int | str | None]) -> str:
    """How a tensor is named to people: ``uint8 (N, 112, 112, 3)``; N is the batch, ? a size that may vary."""
    free = ("N", *("?" * (len(shape) - 1)))
    sizes = (str(name if size is None else size) for size, name in zip(shape, free, strict=False))
    return f"{dtype} ({', '.join(sizes)})"


def select(networks: Mapping[str, Network], name: str) -> Network:
    """The network called ``name``. Raises NotFound, naming those there are."""
    network = networks.get(name)
    if network is None:
        raise NotFound(f"there is no network {name!r}; loaded: {', '.join(sorted(networks)) or 'none'}")
    return network


def check_inputs(network: Network, inputs: Tensors) -> None:
    """Raise InvalidInput unless ``inputs`` are exactly those of ``network``.

    Names, dtypes, ranks and fixed dimensions must agree, no dimension may be 0, and all tensors
    must have the same batch. The message states what was expected.
    """
    names = {spec.name for spec in network.inputs}
    if inputs.keys() != names:
        raise InvalidInput(f"network {network.name!r} takes the inputs {_listed(names)}, got {_listed(inputs.keys())}", field="inputs")
    for spec in network.inputs:
        tensor = inputs[spec.name]
        if not isinstance(tensor, np.ndarray) or tensor.dtype != np.dtype(spec.dtype) or not _fits(spec, tensor.shape):
            got = describe(str(tensor.dtype), tensor.shape) if isinstance(tensor, np.ndarray) else type(tensor).__name__
            raise InvalidInput(
                f"network {network.name!r} takes {spec.name!r} as {describe(spec.dtype, spec.shape)} with no empty dimension, got {got}",
                field=spec.name,
            )
    batches = {tensor.shape[0] for tensor in inputs.values()}
    if len(batches) > 1:
        raise InvalidInput(f"network {network.name!r} got inputs of different batch sizes: {sorted(batches)}", field="inputs")


def check_tensors(network: Network, kind: str, declared: Sequence[TensorSpec], actual: Sequence[TensorSpec]) -> None:
    """Raise WeightsError unless a file's ``actual`` tensors fulfil what the catalogue ``declared``.

    ``kind`` is "inputs" or "outputs". Dimensions are compared where both sides fix them; the order
    does not matter.
    """
    found = {spec.name: spec for spec in actual}
    for spec in declared:
        other = found.get(spec.name)
        if other is None or other.dtype != spec.dtype or not _compatible(spec.shape, other.shape):
            got = describe(other.dtype, other.shape) if other else "none of that name"
            raise WeightsError(
                f"{network.path.name} of network {network.name!r} breaks its contract: "
                f"among its {kind} {spec.name!r} must be {describe(spec.dtype, spec.shape)}, is {got}"
            )
    if kind == "inputs" and found.keys() != {spec.name for spec in declared}:
        raise WeightsError(
            f"{network.path.name} of network {network.name!r} breaks its contract: it takes the inputs {_listed(found.keys())}"
        )


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return len(shape) == len(spec.shape) and all(
        size > 0 and wanted in {None, size} for wanted, size in zip(spec.shape, shape, strict=True)
    )


def _compatible(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

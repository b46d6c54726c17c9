"""What the pipelines know of the networks they call: ``networks.json`` beside ``model.py``.

::

    {"detector": {catalogue entry}, "embedder": {catalogue entry},
     "networks": {"yunet": {"inputs": [{"name", "dtype", "shape"}], "outputs": [...]}, "sface": {...}}}

Entries are those of ``face_server.models.catalog`` with all their fields, tensors ``TensorSpec``
with null for a dimension that may vary. So a server needs no weights store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from face_server.domain.network import Network, TensorSpec
from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry

FILE: Final = "networks.json"


@dataclass(frozen=True, slots=True)
class CalledNetwork:
    """A network of the server and where it stands in the catalogue."""

    entry: CatalogEntry
    network: Network


@dataclass(frozen=True, slots=True)
class CalledNetworks:
    """The two networks of a pipeline."""

    detector: CalledNetwork
    embedder: CalledNetwork


def read_networks(args: Mapping[str, str]) -> CalledNetworks:
    """What ``initialize`` was given the place of. Raises WeightsError naming what is wrong with the file."""
    file = Path(args["model_repository"]) / args["model_version"] / FILE
    try:
        content = json.loads(file.read_text())
        return CalledNetworks(_called(content, "detector"), _called(content, "embedder"))
    except OSError as error:
        raise WeightsError(f"{args['model_name']} cannot read {FILE}: {error.strerror}; export the repository again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{FILE} of {args['model_name']} is damaged ({error!r}); export the repository again") from error


def _called(content: Mapping[str, Any], role: str) -> CalledNetwork:
    known = {field.name for field in fields(CatalogEntry)} - {"sources"}
    entry = CatalogEntry(**{name: value for name, value in content[role].items() if name in known})
    tensors = content["networks"][entry.name]
    # Nobody here opens a file: the path is never used.
    network = Network(entry.name, Path(), _specs(tensors["inputs"]), _specs(tensors["outputs"]), entry.sha256)
    return CalledNetwork(entry, network)


def _specs(tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor["name"], tensor["dtype"], tuple(tensor["shape"])) for tensor in tensors)

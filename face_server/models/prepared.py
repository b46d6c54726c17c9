"""Prepared networks on disk: the file that runs and the record of what it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import onnx

from face_server.domain.network import Network, TensorSpec
from face_server.errors import WeightsError
from face_server.models.catalog import CatalogEntry
from face_server.models.contract import Task
from face_server.models.families import family_of
from face_server.models.graphs.check import check_equal
from face_server.models.graphs.prepare import RECIPE, prepare, tensor_specs
from face_server.models.sources import sha256_of

PREPARED = "prepared.onnx"
SIDECAR = "prepared.json"


def write_prepared(entry: CatalogEntry, published: bytes, folder: Path) -> None:
    """Prepare the bytes of a published file into ``folder``, compared with them, and record its digest.

    Raises WeightsError if the file does not fit the family of ``entry``.
    """
    recipe = family_of(entry.family).recipe
    what = f"the file of {entry.name}"
    prepared = prepare(published, recipe, what)
    shapes = check_equal(published, prepared, recipe, what)
    graph = onnx.load_model_from_string(prepared).graph
    outputs = tensor_specs(list(graph.output))
    if entry.task is Task.EMBEDDER:
        if len(shapes[0]) != 2:
            raise WeightsError(f"{what} must give one feature vector a face, it gives {shapes[0]} for two")
        outputs = (TensorSpec(outputs[0].name, outputs[0].dtype, (None, shapes[0][1])),)
    (folder / PREPARED).write_bytes(prepared)
    record = {
        "recipe": _recipe_of(entry),
        "weights_sha256": entry.sha256,
        "prepared_sha256": sha256_of(folder / PREPARED),
        "inputs": [asdict(spec) for spec in tensor_specs(list(graph.input))],
        "outputs": [asdict(spec) for spec in outputs],
    }
    (folder / SIDECAR).write_text(json.dumps(record, indent=2))


def is_prepared(entry: CatalogEntry, folder: Path) -> bool:
    """Whether ``folder`` holds a network prepared from the weights of ``entry`` by today's repairs."""
    record = _record(folder)
    current = record.get("recipe") == _recipe_of(entry) and record.get("weights_sha256") == entry.sha256
    return current and (folder / PREPARED).is_file()


def prepared_fault(entry: CatalogEntry, folder: Path) -> str | None:
    """How the prepared file in ``folder`` differs from its record, as a sentence; None if it does not."""
    if not is_prepared(entry, folder):
        return None
    expected, actual = str(_record(folder)["prepared_sha256"]), sha256_of(folder / PREPARED)
    return None if actual == expected else digest_mismatch(f"prepared network of {entry.name} was altered", expected, actual)


def load_network(entry: CatalogEntry, folder: Path) -> Network:
    """The prepared network in ``folder``. Raises WeightsError if its file is not the recorded one."""
    fault = prepared_fault(entry, folder)
    if fault is not None:
        raise WeightsError(f"{fault}; repair it with: face-server models pull {entry.name}")
    record = _record(folder)
    return Network(entry.name, folder / PREPARED, _specs(record["inputs"]), _specs(record["outputs"]), entry.sha256)


def digest_mismatch(what: str, expected: str, actual: str) -> str:
    """The sentence about a file that is not what it should be."""
    return f"the {what}: expected sha256 {expected}, found {actual}"


def _record(folder: Path) -> dict[str, object]:
    """The sidecar's content; empty when it is absent or not readable."""
    try:
        content = json.loads((folder / SIDECAR).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recipe_of(entry: CatalogEntry) -> object:
    """What a prepared file depends on beside the weights, as JSON gives it back."""
    return json.loads(json.dumps({"version": RECIPE, **asdict(family_of(entry.family).recipe)}))


def _specs(items: object) -> tuple[TensorSpec, ...]:
    assert isinstance(items, list)
    return tuple(TensorSpec(item["name"], item["dtype"], tuple(item["shape"])) for item in items)

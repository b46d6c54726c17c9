"""Networks of the repository in the pipeline's own process: for servers on CPUs, where calls of other models cost more than they bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.domain.network import Network, served_name
from face_server.domain.ports import Runner
from face_server.errors import WeightsError
from face_server.workers import Workers


def runner(network: Network, args: Mapping[str, str]) -> Runner:
    """A function that runs the newest ``model.onnx`` of ``network`` in the thread that calls it, one CPU thread a call.

    ``args`` are those of ``initialize``. Raises WeightsError for a file that is missing or breaks the contract.
    """
    folder = Path(args["model_repository"]).parent / served_name(network.name)
    versions = {int(file.parent.name): file for file in folder.glob("*/model.onnx") if file.parent.name.isdecimal()}
    if not versions:
        raise WeightsError(f"{args['model_name']} finds no model.onnx of {folder.name} in its repository; export it, or use networks: bls")
    # The threads are for those who await; calls of the runner need none.
    with Workers(1) as workers:
        found = OnnxBackend([replace(network, path=versions[max(versions)])], workers, OnnxOptions("cpu")).runner(network.name)
    assert found is not None
    return found

"""Which backend is fastest on this machine, found by trying."""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.domain.image import Pixels
from face_server.domain.network import Network
from face_server.domain.ports import Backend, Tensors
from face_server.workers import Workers

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class SurveyRow:
    """How fast one backend ran the networks, all workers busy.

    ``rates`` are inferences a second by network; ``passes_per_s`` how often a second all of them
    together run once; ``ratio`` that of this backend over the slowest one's.
    """

    backend: str
    description: str
    rates: Mapping[str, float]
    passes_per_s: float
    ratio: float


async def open_candidates(networks: Sequence[Network], workers: Workers, options: OnnxOptions) -> dict[str, Backend]:
    """Open every backend that is installed, by its name in the settings; the caller closes them."""
    candidates: dict[str, Backend] = {"onnx": await OnnxBackend.open(networks, workers, options)}
    if importlib.util.find_spec("openvino") is not None:
        from face_server.backends.openvino import OpenVinoBackend  # noqa: PLC0415  # an extra that may be absent

        candidates["openvino"] = await OpenVinoBackend.open(networks, workers)
    return candidates


async def survey(
    candidates: Mapping[str, Backend], networks: Sequence[Network], *, concurrency: int, seconds: float = 2.0, size_px: int = 640
) -> list[SurveyRow]:
    """Run ``networks`` on each of ``candidates`` for about ``seconds`` altogether each; fastest first.

    ``concurrency`` calls are always under way (the number of workers). Candidates take turns, so
    that a busy moment of the machine hits all of them; rates are medians over the turns.
    Dimensions of pictures that may vary are ``size_px``.
    """
    slice_s = seconds / (_ROUNDS * len(networks))
    inputs = {network.name: survey_inputs(network, size_px) for network in networks}
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(_ROUNDS + 1):
        for network in networks:
            for name, backend in candidates.items():
                rate = await _rate(backend, network.name, inputs[network.name], concurrency, slice_s if turn else 0.0)
                # The first turn warms up: kernels are chosen and memory is taken at the first run.
                if turn:
                    rates.setdefault((name, network.name), []).append(rate)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    passes = {name: 1.0 / sum(1.0 / medians[name, network.name] for network in networks) for name in candidates}
    slowest = min(passes.values())
    rows = [
        SurveyRow(
            name,
            backend.description,
            {network.name: medians[name, network.name] for network in networks},
            passes[name],
            passes[name] / slowest,
        )
        for name, backend in candidates.items()
    ]
    return sorted(rows, key=lambda row: row.passes_per_s, reverse=True)


def verdict(rows: Sequence[SurveyRow]) -> str:
    """One sentence for people about the result of ``survey``."""
    best, *others = rows
    if not others:
        return f"{best.backend} is the only backend installed"
    factors = ", ".join(f"{best.passes_per_s / row.passes_per_s:.2f} × {row.backend}" for row in others)
    return f"{best.backend} is fastest here: {factors}"


def survey_inputs(network: Network, size_px: int) -> Tensors:
    """One row of input for ``network`` with the statistics of a photo.

    Zeros would flatter a runtime: activations that are all zero hide the cost of PRelu.
    """
    inputs = {}
    for spec in network.inputs:
        height, width = (size if size is not None else size_px for size in spec.shape[1:3])
        inputs[spec.name] = natural_noise(height, width)[None]
    return inputs


def natural_noise(height: int, width: int) -> Pixels:
    """Height×width×3 uint8 noise whose amplitude falls with frequency, as that of photos does."""
    generator = np.random.default_rng(7)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(7):
        rows, columns = max(2, height >> (7 - octave)), max(2, width >> (7 - octave))
        layer = generator.normal(0.0, 0.5**octave, (rows, columns, 3)).astype(np.float32)
        picture += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(128.0 + 50.0 * picture / picture.std(), 0, 255), np.uint8)


async def _rate(backend: Backend, network: str, inputs: Tensors, concurrency: int, seconds: float) -> float:
    """Inferences a second with ``concurrency`` calls under way; each caller makes at least one."""
    started_s = time.perf_counter()
    done = 0

    async def call() -> None:
        nonlocal done
        while True:
            await backend.infer(network, inputs)
            done += 1
            if time.perf_counter() - started_s >= seconds:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(call())
    return done / (time.perf_counter() - started_s)

"""How to run the networks on this machine: threads, precision, batch sizes.

``python -m benchmarks.batching`` prints three tables: one inference a core against one inference
on all cores, rows a second by batch size on every backend, and what spreading the rows of a call
over the workers gains. All figures are medians over rounds in which the variants take turns. CPU
milliseconds hold on a busy machine too, where rates do not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from face_server.backends.batching import BatchingBackend
from face_server.backends.gathering import BatchPolicy
from face_server.backends.onnx import OnnxBackend, OnnxOptions
from face_server.backends.openvino import OpenVinoBackend, OpenVinoOptions
from face_server.backends.survey import survey_inputs
from face_server.domain.network import Network
from face_server.domain.ports import Backend, Tensors
from face_server.models.weights import WeightsStore
from face_server.workers import Workers, available_cores

Job = Callable[[], Awaitable[object]]

ROUNDS = 5
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Pace:
    """Runs a second by the clock, and milliseconds of CPU a run took on all threads together."""

    per_s: float
    cpu_ms: float


def repeated(inputs: Tensors, rows: int) -> Tensors:
    """``rows`` different rows: the one of ``inputs``, brightened a little more each time."""
    return {name: np.concatenate([tensor + np.uint8(3 * row) for row in range(rows)]) for name, tensor in inputs.items()}


async def paces(jobs: Mapping[str, Job], *, callers: int, slice_s: float) -> dict[str, Pace]:
    """How fast each job runs with ``callers`` of it under way; medians, after one round to warm up."""
    found: dict[str, list[Pace]] = {name: [] for name in jobs}
    for turn in range(ROUNDS + 1):
        for name, job in jobs.items():
            pace = await _pace(job, callers, slice_s if turn else 0.0)
            if turn:
                found[name].append(pace)
    return {
        name: Pace(statistics.median(pace.per_s for pace in turns), statistics.median(pace.cpu_ms for pace in turns))
        for name, turns in found.items()
    }


async def _pace(job: Job, callers: int, slice_s: float) -> Pace:
    started_s, started_cpu_s, done = time.perf_counter(), time.process_time(), 0

    async def call() -> None:
        nonlocal done
        while True:
            await job()
            done += 1
            if time.perf_counter() - started_s >= slice_s:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    return Pace(done / (time.perf_counter() - started_s), 1000 * (time.process_time() - started_cpu_s) / done)


def bare_job(network: Network, inputs: Tensors, threads: int, intra_op: int) -> Job:
    """A bare ONNX Runtime session with ``intra_op`` threads, called from ``threads`` threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(network.path, options, providers=["CPUExecutionProvider"])
    pool = ThreadPoolExecutor(threads)

    async def run() -> object:
        return await asyncio.get_running_loop().run_in_executor(pool, session.run, None, dict(inputs))

    return run


def backend_job(backend: Backend, network: Network, inputs: Tensors) -> Job:
    """One call of ``backend``."""

    async def run() -> object:
        return await backend.infer(network.name, inputs)

    return run


async def compare_threads(networks: Sequence[Network], backends: Mapping[str, Backend], cores: int, slice_s: float) -> None:
    """Print inferences a second at saturation, by threads and by runtime."""
    print(f"\nInferences a second, {cores} cores busy, and CPU milliseconds of one\n")
    for network in networks:
        inputs = survey_inputs(network, 640)
        jobs = {
            f"onnx, {cores} at once, intra_op 1": bare_job(network, inputs, cores, 1),
            f"onnx, 1 at once, intra_op {cores}": bare_job(network, inputs, 1, cores),
            f"onnx, {cores} at once, intra_op {cores}": bare_job(network, inputs, cores, cores),
        } | {name: backend_job(backend, network, inputs) for name, backend in backends.items()}
        found = await paces(jobs, callers=cores, slice_s=slice_s)
        first = next(iter(found.values()))
        for name, pace in found.items():
            print(f"{network.name:24} {name:32} {pace.per_s:8.1f} {pace.per_s / first.per_s:6.2f} ×  {pace.cpu_ms:8.2f} ms")


async def compare_batches(networks: Sequence[Network], backends: Mapping[str, Backend], cores: int, slice_s: float) -> None:
    """Print rows a second by batch size."""
    print("\nRows a second by rows a call\n")
    print(f"{'':24} {'':24}" + "".join(f"{rows:9}" for rows in BATCHES))
    for network in networks:
        for name, backend in backends.items():
            single = survey_inputs(network, 640)
            jobs = {str(rows): backend_job(backend, network, repeated(single, rows)) for rows in BATCHES}
            found = await paces(jobs, callers=cores, slice_s=slice_s)
            print(f"{network.name:24} {name:24}" + "".join(f"{found[str(rows)].per_s * rows:9.1f}" for rows in BATCHES))
            print(f"{'':24} {'  CPU ms a row':24}" + "".join(f"{found[str(rows)].cpu_ms / rows:9.2f}" for rows in BATCHES))


async def compare_spreading(
    networks: Sequence[Network], backends: Mapping[str, Backend], workers: Workers, slice_s: float, *, rows: int = 8
) -> None:
    """Print how long one call of ``rows`` rows takes on an idle machine, whole and spread over the workers."""
    print(f"\nMilliseconds of a call of {rows} rows on an idle machine\n")
    for network in networks:
        inputs = repeated(survey_inputs(network, 640), rows)
        for name, backend in backends.items():
            spread = BatchingBackend(backend, {network.name: BatchPolicy(max_batch=1)}, workers)
            jobs = {"whole": backend_job(backend, network, inputs), "spread": backend_job(spread, network, inputs)}
            found = await paces(jobs, callers=1, slice_s=slice_s)
            whole_ms, spread_ms = 1000 / found["whole"].per_s, 1000 / found["spread"].per_s
            print(f"{network.name:24} {name:24} whole {whole_ms:7.1f}   spread {spread_ms:7.1f}")


async def main(names: Sequence[str], models: Path, search: Sequence[Path], slice_s: float) -> None:
    """Open everything once and print the tables."""
    store = WeightsStore(models, search)
    cores = available_cores()
    with Workers(cores) as workers:
        networks = [await workers.run(store.pull, name) for name in names]
        backends: dict[str, Backend] = {
            "onnx": await OnnxBackend.open(networks, workers, OnnxOptions()),
            "openvino f32": await OpenVinoBackend.open(networks, workers, OpenVinoOptions("f32")),
        }
        best = await OpenVinoBackend.open(networks, workers)
        if best.precision != "f32":
            backends[f"openvino {best.precision}"] = best
        for backend in backends.values():
            print(backend.description)
        await compare_threads(networks, backends, cores, slice_s)
        await compare_batches(networks, backends, cores, slice_s)
        await compare_spreading(networks, backends, workers, slice_s)
        for backend in backends.values():
            await backend.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["yunet", "sface"], help="names of the catalogue")
    parser.add_argument("--models", type=Path, default=Path.home() / ".cache" / "face_server" / "models", help="folder of the weights")
    parser.add_argument("--search", type=Path, action="append", default=[], help="folder of published weight files; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of one turn of one variant")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.networks, arguments.models, arguments.search, arguments.seconds))

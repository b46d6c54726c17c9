"""The least that a picture costs: the same networks in bare sessions, threads and a loop, no server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import simplejpeg  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray

from face_server.domain.alignment import aligned_crop
from face_server.domain.geometry import Letterbox, non_maximum_suppression
from face_server.domain.network import Network
from face_server.models.catalog import CatalogEntry
from face_server.models.families import detector_family

Run = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]


def onnx_runner(path: Path) -> Run:
    """A bare ONNX Runtime session with one thread and no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tensor = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {tensor: batch}), strict=True))


def openvino_runner(network: Network) -> Callable[[], Run]:
    """A bare OpenVINO model at its default precision, one thread a request; one runner a thread."""
    import openvino  # type: ignore[import-untyped]  # ships no types

    core = openvino.Core()
    compiled = core.compile_model(
        str(network.path), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}
    )
    names = [output.name for output in network.outputs]

    def open_request() -> Run:
        request = compiled.create_infer_request()

        def run(batch: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
            request.infer([batch])
            return {name: request.get_tensor(name).data for name in names}

        return run

    return open_request


def pipeline(detector: CatalogEntry, detect: Run, embed: Run, *, max_size_px: int = 640) -> Callable[[bytes], int]:
    """A function that decodes a picture, finds, aligns and embeds its faces, and returns their number."""
    family = detector_family(detector.family)

    def run(data: bytes) -> int:
        jpeg = data[:3] == b"\xff\xd8\xff"
        decoded = simplejpeg.decode_jpeg(data, colorspace="BGR") if jpeg else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        picture = np.asarray(decoded, np.uint8)
        height, width = picture.shape[:2]
        box = Letterbox.fit(width, height, max_size_px)
        canvas = np.zeros((1, box.height, box.width, 3), np.uint8)
        inner = canvas[0, : box.inner_height, : box.inner_width]
        if inner.shape == picture.shape:
            inner[:] = picture
        else:
            cv2.resize(picture, (box.inner_width, box.inner_height), dst=inner, interpolation=cv2.INTER_AREA)
        (raw,) = family.decode(detect(canvas), box.height, box.width, detector.detection_score)
        kept = non_maximum_suppression(raw.boxes, raw.scores, detector.suppression_iou)
        for index in kept:
            features = next(iter(embed(aligned_crop(picture, box.to_picture(raw.landmarks[index]))[None]).values()))
            np.divide(features, np.linalg.norm(features))
        return len(kept)

    return run


def onnx_pipelines(detector: CatalogEntry, networks: tuple[Network, Network], threads: int) -> list[Callable[[bytes], int]]:
    """One pipeline a thread on shared ONNX Runtime sessions."""
    detect, embed = (onnx_runner(network.path) for network in networks)
    return [pipeline(detector, detect, embed)] * threads


def openvino_pipelines(detector: CatalogEntry, networks: tuple[Network, Network], threads: int) -> list[Callable[[bytes], int]]:
    """One pipeline a thread on shared OpenVINO models, each with requests of its own."""
    detect, embed = (openvino_runner(network) for network in networks)
    return [pipeline(detector, detect(), embed()) for _ in range(threads)]


def throughput(pipelines: Sequence[Callable[[bytes], int]], pictures: Sequence[bytes], seconds: float) -> float:
    """Pictures a second of one thread a pipeline, working through ``pictures`` in turn."""
    turn = itertools.cycle(pictures)
    lock = threading.Lock()
    counts = [0] * len(pipelines)
    for run in pipelines:
        for picture in pictures[:3]:
            run(picture)
    began = time.perf_counter()

    def work(slot: int) -> None:
        while time.perf_counter() < began + seconds:
            with lock:
                picture = next(turn)
            pipelines[slot](picture)
            counts[slot] += 1

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(len(pipelines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def latencies_ms(run: Callable[[bytes], int], pictures: Sequence[bytes]) -> list[float]:
    """Milliseconds of each picture, one after the other."""
    result = []
    for picture in pictures:
        began = time.perf_counter()
        run(picture)
        result.append(1000 * (time.perf_counter() - began))
    return result

"""Throughput of the `insightface` package on the same pictures, for comparison.

Runs in an environment of its own (``pip install insightface onnxruntime``), as
``python insightface_peer.py DETECTOR.onnx EMBEDDER.onnx PROCESSES SECONDS`` with one path of a
picture a line on standard input. Its best setting on a CPU: one process a core, one thread a
session. Prints pictures a second, decoding included.
"""

from __future__ import annotations

import multiprocessing
import pathlib
import sys
import time
from typing import Any


def work(detector_path: str, embedder_path: str, pictures: list[bytes], seconds: float, ready: Any, results: Any) -> None:
    """Decode, detect at 640×640, align and embed in a loop; report the number of pictures."""
    import cv2
    import numpy as np
    import onnxruntime
    from insightface.app.common import Face  # type: ignore[import-not-found]  # lives in an environment of its own
    from insightface.model_zoo import model_zoo  # type: ignore[import-not-found]  # likewise

    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    detector = model_zoo.get_model(detector_path, **sessions)
    embedder = model_zoo.get_model(embedder_path, **sessions)
    detector.prepare(ctx_id=0, input_size=(640, 640), det_thresh=0.6)

    def run(data: bytes) -> None:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        boxes, landmarks = detector.detect(picture, max_num=0)
        for box, points in zip(boxes, landmarks, strict=True):
            embedder.get(picture, Face(bbox=box[:4], kps=points, det_score=box[4]))

    for data in pictures[:5]:
        run(data)
    ready.wait()
    done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        run(pictures[done % len(pictures)])
        done += 1
    results.put(done)


def main() -> None:
    """Start the processes together and add up what they did."""
    detector, embedder, processes, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    pictures = [pathlib.Path(line.strip()).read_bytes() for line in sys.stdin if line.strip()]
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    runners = [context.Process(target=work, args=(detector, embedder, pictures, seconds, ready, results)) for _ in range(processes)]
    for runner in runners:
        runner.start()
    done = sum(results.get() for _ in runners)
    for runner in runners:
        runner.join()
    sys.stdout.write(f"{done / seconds:.2f}\n")


if __name__ == "__main__":
    main()

"""`make triton-demo`: a real tritonserver, an exported repository on it, and a face_server that answers through it.

    python -m benchmarks.triton_demo [--photo FILE] [--video FILE] [--data data] [--once]

Without files, the picture and the camera show a drawn face. ``--once`` ends after the story instead
of serving until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.demos import arguments_parser, draw_photo, draw_video
from benchmarks.service import Service
from benchmarks.triton_server import TritonServer, prepare, unsuitable

_SEEN_S = 30.0

out = Console(highlight=False, soft_wrap=True)


def export(repository: Path, data: Path) -> None:
    """Write the repository as a user does, and show how."""
    line = ["models", "export", "--to", "python", str(repository), "--cpu", "--models", "yunet,sface", "--data", str(data)]
    out.print(f"$ face-server {' '.join(line)}", style="bold")
    subprocess.run([sys.executable, "-m", "face_server", *line], check=True)


def extract(service: Service, photo: Path) -> None:
    """Ask for the faces of a picture."""
    out.print(f"$ curl --data-binary @{photo.name} http://127.0.0.1:{service.port}/v1/extract", style="bold")
    answer = httpx.post(
        f"http://127.0.0.1:{service.port}/v1/extract", content=photo.read_bytes(), headers={"content-type": "image/jpeg"}, timeout=30
    )
    faces = answer.raise_for_status().json()["images"][0]["faces"]
    for face in faces:
        out.print(f"  a face at {json.dumps(face['box'])}, score {face['score']:.2f}")
    if not faces:
        raise SystemExit("no face was found")


@contextmanager
def camera(service: Service, video: Path) -> Iterator[subprocess.Popen[str]]:
    """`face-server demo` on the running server."""
    line = ["demo", str(video), "--server", f"http://127.0.0.1:{service.port}", "--port", "0"]
    out.print(f"$ face-server {' '.join(line)}", style="bold")
    with subprocess.Popen([sys.executable, "-m", "face_server", *line], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def watch(process: subprocess.Popen[str]) -> None:
    """Print what the camera's demo prints, until somebody was seen. Raises SystemExit if nobody is."""
    seen = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            out.print(f"  {line.rstrip()}")
            if " seen " in line:
                seen.set()

    threading.Thread(target=read, daemon=True).start()
    if not seen.wait(_SEEN_S):
        raise SystemExit("nobody was seen on the camera")


def counts(server: TritonServer) -> None:
    """What Triton itself has counted."""
    for line in server.metrics().splitlines():
        if line.startswith("nv_inference_request_success{"):
            out.print(f"  {line}", markup=False)


def story(arguments: argparse.Namespace, folder: Path) -> None:
    """The demonstration."""
    photo = arguments.photo or draw_photo(folder / "drawn.jpg")
    video = arguments.video or draw_video(folder / "drawn.mp4")
    repository, data = folder / "repository", folder / "data"
    data.mkdir()
    export(repository, arguments.data)
    with TritonServer(repository) as triton:
        out.print(
            f"tritonserver listens on {triton.url}; its models: {', '.join(f'{one} {state}' for one, state in triton.index().items())}"
        )
        environment = {"FACE_SERVER_INFERENCE__BACKEND": "triton-pipeline", "FACE_SERVER_TRITON__ENDPOINTS": triton.url}
        for name, value in environment.items():
            out.print(f"$ export {name}={value}", style="bold")
        with Service(data, environment=environment, models=arguments.data / "models") as service:
            out.print(f"face_server is ready on http://127.0.0.1:{service.port}")
            out.print(f"  /v1/info says: {service.get('/v1/info')['backend']}")
            out.print(f"  /info says: {service.get('/info')['models']['inference_backend']}")
            extract(service, photo)
            with camera(service, video) as process:
                watch(process)
                out.print("tritonserver has counted:")
                counts(triton)
                if arguments.once:
                    return
                out.print(f"Open http://127.0.0.1:{service.port}/ and its Cameras view. Ctrl-C ends everything.", style="bold green")
                with suppress(KeyboardInterrupt):
                    while True:
                        time.sleep(1)


def main() -> None:
    """Tell the story."""
    parser = arguments_parser(__doc__)
    arguments = parser.parse_args()
    if reason := unsuitable():
        parser.exit(1, f"no tritonserver can run here: {reason}\n")
    prepare()
    with tempfile.TemporaryDirectory(prefix="triton-demo-") as folder:
        story(arguments, Path(folder))


if __name__ == "__main__":
    main()

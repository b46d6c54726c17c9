"""The service on a Triton server as its users meet it: same answers, clear errors while the server is away, recovery by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.cameras import CameraStandIn
from benchmarks.service import Service
from benchmarks.triton import export
from benchmarks.triton_server import TritonServer, missing
from face_server.models.weights import WeightsStore

RECOVERED_S = 15.0


@pytest.fixture(scope="module")
def repository(weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default networks and the pipeline, for the Python backend."""
    if reason := missing():
        pytest.skip(f"needs tritonserver: {reason}")
    return export(tmp_path_factory.mktemp("triton") / "repository", weights.folder.parent)


@pytest.fixture
def triton(repository: Path) -> Iterator[TritonServer]:
    """A server of its own for each test: they break it."""
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(params=["triton-pipeline", pytest.param("triton", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    """A call a picture, and a call a network."""
    return str(request.param)


def serve(folder: Path, weights: WeightsStore, triton: TritonServer, backend: str, **more: str) -> Service:
    """A face_server on that Triton server."""
    environment = {"FACE_SERVER_INFERENCE__BACKEND": backend, "FACE_SERVER_TRITON__ENDPOINTS": triton.url, **more}
    return Service(folder, environment=environment, models=weights.folder)


def extract(service: Service, picture: bytes) -> httpx.Response:
    """Ask for the faces of a picture."""
    return httpx.post(
        f"http://127.0.0.1:{service.port}/v1/extract", content=picture, headers={"content-type": "image/jpeg"}, timeout=30, trust_env=False
    )


def ready(service: Service) -> bool:
    """Whether it says that it would serve."""
    return httpx.get(f"http://127.0.0.1:{service.port}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize("backend", ["triton", "triton-pipeline"])
def test_a_picture_is_answered(tmp_path: Path, weights: WeightsStore, triton: TritonServer, backend: str, shared: Path) -> None:
    """/extract finds faces, /info says who ran the networks, Triton has counted them; limits hold wherever pictures are decoded."""
    picture = (shared / "data/photos/scenes/two_people.jpg").read_bytes()
    with serve(tmp_path, weights, triton, backend, FACE_SERVER_IMAGES__MAX_PIXELS="1000000") as service:
        answer = extract(service, picture)
        assert answer.status_code == 200, answer.text
        faces = answer.json()["images"][0]["faces"]
        assert len(faces) == 2
        assert all(face["embedding"] for face in faces)
        assert "triton" in service.get("/v1/info")["backend"]
        assert "triton" in service.get("/info")["models"]["inference_backend"]
        asked = "face_pipeline" if backend == "triton-pipeline" else "yunet"
        assert f'nv_inference_request_success{{model="{asked}",version="1"}}' in triton.metrics()
        assert service.metric("face_server_inference_duration_seconds_count") > 0
        too_large = extract(service, (shared / "data/photos/scenes/friends_six_faces.jpg").read_bytes())
        garbage = extract(service, b"\xff\xd8\xff\xe0 and no more")
        assert (garbage.status_code, garbage.json()["code"]) == (422, "invalid_image")
        assert (too_large.status_code, too_large.json()["code"]) == (413, "input_too_large")


def test_a_server_that_comes_and_goes(tmp_path: Path, weights: WeightsStore, triton: TritonServer, backend: str, shared: Path) -> None:
    """Away at start, back, killed, back: 503 with Retry-After and a reason meanwhile, answers afterwards, nobody restarts anything."""
    picture = (shared / "data/photos/scenes/obama1.jpg").read_bytes()
    triton.kill()
    service = serve(tmp_path, weights, triton, backend)
    service.awaits_ready = False
    with service:
        for _ in range(2):
            away = extract(service, picture)
            assert away.status_code == 503, away.text
            assert int(away.headers["retry-after"]) >= 1
            assert "riton" in away.json()["detail"]
            assert not ready(service)
            for _ in range(20):
                extract(service, picture)
            assert sum("Unavailable: " in line for line in service.log) <= 4, "".join(service.log[-40:])
            triton.start()
            service.wait_for(lambda: ready(service), RECOVERED_S, "the service to find Triton")
            assert extract(service, picture).status_code == 200
            triton.kill()


def test_a_frozen_server(tmp_path: Path, weights: WeightsStore, triton: TritonServer, backend: str, shared: Path) -> None:
    """A call ends with its deadline, the next at once, and all is well after the thaw."""
    picture = (shared / "data/photos/scenes/obama1.jpg").read_bytes()
    with serve(tmp_path, weights, triton, backend, FACE_SERVER_TRITON__TIMEOUT_S="2") as service:
        assert extract(service, picture).status_code == 200
        triton.freeze()
        first = extract(service, picture)
        assert first.status_code == 503
        assert first.elapsed.total_seconds() < 6
        triton.thaw()
        service.wait_for(lambda: extract(service, picture).status_code == 200, RECOVERED_S, "an answer after the thaw")


def test_a_camera_goes_on_by_itself(
    tmp_path: Path, weights: WeightsStore, triton: TritonServer, start_camera: Callable[..., CameraStandIn]
) -> None:
    """A stream is analysed through Triton, says why it is not while the server is away, and goes on when it is back."""
    camera = start_camera("stage_360p.mp4")

    def analysed() -> int:
        return int(service.status("stage")["analysed"])

    with serve(tmp_path, weights, triton, "triton-pipeline") as service:
        service.send("PUT", "/v1/streams/stage", {"url": camera.url, "rules": {"max_fps": 5}})
        service.wait_for(lambda: analysed() > 5, RECOVERED_S, "frames to be analysed")
        triton.kill()
        service.wait_for(lambda: bool(service.status("stage")["last_error"]), RECOVERED_S, "the stream to say what is wrong")
        triton.start()
        before = analysed()
        service.wait_for(lambda: analysed() > before + 5, RECOVERED_S, "frames to be analysed again")


def test_a_repository_of_other_weights(tmp_path: Path, weights: WeightsStore, repository: Path, backend: str) -> None:
    """A server whose network was made from other weights is refused at start, and the sentence names the network."""
    other = tmp_path / "repository"
    for file in sorted(repository.rglob("*")):
        target = other / file.relative_to(repository)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    config = other / "sface" / "config.pbtxt"
    digest = weights.entry("sface").sha256
    assert digest in config.read_text()
    config.write_text(config.read_text().replace(digest, "0" * 64))
    with TritonServer(other) as triton:
        data = tmp_path / "data"
        data.mkdir()
        with pytest.raises(RuntimeError, match="sface"):
            serve(data, weights, triton, backend).start()

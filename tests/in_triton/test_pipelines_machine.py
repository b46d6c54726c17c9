"""Pipelines over other networks, in the long run, and after their process has died."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.triton_server import TritonServer, missing
from face_server.domain.face_pipeline import Question, read_answer
from face_server.domain.ports import AnalysisOptions
from face_server.models.embedder import model_id
from face_server.models.weights import WeightsStore
from face_server.video.images import ImageLimits, decode_image
from face_server.workers import Workers

from .asking import Asker, Refused, assert_same_faces, faces_here, in_process
from .repositories import networks_json, pipeline_models

NETWORKS = ("scrfd_500m", "arcface_mobilefacenet")


@pytest.fixture(scope="module")
def alone(all_weights: WeightsStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with one ``face_pipeline`` over SCRFD and MobileFaceNet, one instance each."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("alone")
    pipeline_models(folder, all_weights, *NETWORKS, instances=1)
    with TritonServer(folder, ["face_pipeline", *NETWORKS]) as server:
        yield server


def asker(server: TritonServer, weights: WeightsStore) -> Asker:
    """Asks that server."""
    return Asker(server.url, model_id(weights.entry(NETWORKS[1]), weights.network(NETWORKS[1])))


def stubs(server: TritonServer, model: str) -> dict[int, int]:
    """Resident bytes of the processes that run ``model``, by process."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        if line[0].endswith("triton_python_backend_stub") and f"{server.repository}/{model}/" in " ".join(line):
            found[int(process.name)] = 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1))
    return found


def network_calls(server: TritonServer) -> float:
    """How often networks of that server were called."""
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in server.metrics().splitlines() if re.match(r"nv_inference_request_success.*scrfd", line)
    )


@pytest.mark.parametrize("name", ["friends_six_faces.jpg", "two_people.jpg", "kit_with_rose.jpg"])
async def test_other_networks(alone: TritonServer, all_weights: WeightsStore, workers: Workers, photos: Path, name: str):
    """SCRFD and MobileFaceNet through the pipeline are SCRFD and MobileFaceNet in this process."""
    data = (photos / "scenes" / name).read_bytes()
    with in_process(all_weights, *NETWORKS, workers) as analyzer:
        expected = await faces_here(analyzer, decode_image(data, ImageLimits()).pixels)
    async with asker(alone, all_weights) as ask:
        found = await ask.encoded(data)

    assert expected
    assert_same_faces(found.faces, expected)


async def test_networks_in_the_process_of_the_pipeline(alone: TritonServer, all_weights: WeightsStore, workers: Workers, photos: Path):
    """With ``networks: here`` no other model is called, and the faces are the same."""
    data = (photos / "scenes/friends_six_faces.jpg").read_bytes()
    with in_process(all_weights, *NETWORKS, workers) as analyzer:
        expected = await faces_here(analyzer, decode_image(data, ImageLimits()).pixels)
    model = alone.repository / "at_home"
    shutil.copytree(alone.repository / "face_pipeline", model)
    config = (model / "config.pbtxt").read_text().replace('"face_pipeline"', '"at_home"')
    (model / "config.pbtxt").write_text(f'{config}parameters {{ key: "networks" value {{ string_value: "here" }} }}\n')
    await asyncio.to_thread(alone.load, "at_home")
    calls = network_calls(alone)
    async with asker(alone, all_weights) as ask:
        found = await ask.raw({"encoded": np.frombuffer(data, np.uint8)}, model="at_home")
        assert_same_faces(read_answer(found, ask.model).faces, expected)
        assert network_calls(alone) == calls
        await ask.encoded(data)
        assert network_calls(alone) > calls


async def test_memory_stays_flat(alone: TritonServer, all_weights: WeightsStore, photos: Path):
    """After 500 more pictures of many sizes, sound and broken ones, the instance holds what it held."""
    picture = cv2.resize(cv2.imread(str(photos / "scenes/two_people.jpg")), (480, 320))
    sizes = [np.ascontiguousarray(picture[: 320 - 4 * step, : 480 - 4 * step]) for step in range(10)]
    jpegs = [cv2.imencode(".jpg", one)[1].reshape(-1) for one in sizes]
    options = Question(AnalysisOptions(max_size_px=160, max_faces=1)).to_tensor()
    async with asker(alone, all_weights) as ask:

        async def some(count: int) -> None:
            for number in range(count):
                if number % 4 == 3:
                    with pytest.raises(Refused, match="truncated"):
                        await ask.raw({"encoded": jpegs[number % 10][:2000]})
                else:
                    kind, given = ("frame", sizes) if number % 4 else ("encoded", jpegs)
                    await ask.raw({kind: given[number % 10], "options": options})

        await some(120)
        (before,) = stubs(alone, "face_pipeline").values()
        await some(500)
        (after,) = stubs(alone, "face_pipeline").values()
    assert after - before < 4 * 1024 * 1024


async def test_an_instance_that_dies_says_so_until_its_model_is_loaded_again(alone: TritonServer, all_weights: WeightsStore, photos: Path):
    """Triton does not replace the process of an instance that was killed; its requests fail within seconds instead of hanging."""
    data = (photos / "scenes/two_people.jpg").read_bytes()
    (process,) = stubs(alone, "face_pipeline")
    os.kill(process, signal.SIGKILL)
    async with asker(alone, all_weights) as ask:
        with pytest.raises(Refused, match="not healthy") as caught:
            await asyncio.wait_for(ask.encoded(data), 5.0)
        assert caught.value.fault is None
        await asyncio.to_thread(alone.unload, "face_pipeline")
        await asyncio.to_thread(alone.load, "face_pipeline")
        assert len((await ask.encoded(data)).faces) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"networks.json": None}, "face_pipeline cannot read networks.json: No such file or directory; export the repository again"),
        ({"networks.json": "{}"}, "networks.json of face_pipeline is damaged"),
        ({"max_bytes": "many"}, "the parameter max_bytes of face_pipeline must be a whole number of at least 1, it is 'many'"),
        ({"networks": "elsewhere"}, "the parameter networks of face_pipeline must be bls or here, it is 'elsewhere'"),
        ({"max_pixels": 10**12}, "parameters of face_pipeline: ImageLimits need"),
    ],
)
def test_a_pipeline_that_cannot_work_is_not_loaded(alone: TritonServer, all_weights: WeightsStore, damage: dict[str, object], message: str):
    """Triton says in one sentence what is wrong with its configuration, and goes on with what it had."""
    config = alone.repository / "face_pipeline" / "config.pbtxt"
    networks = config.parent / "1" / "networks.json"
    kept = config.read_text()
    try:
        if "networks.json" in damage:
            networks.unlink() if damage["networks.json"] is None else networks.write_text(str(damage["networks.json"]))
        else:
            ((key, value),) = damage.items()
            config.write_text(f'{kept}parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n')
        with pytest.raises(OSError, match="load") as caught:
            alone.load("face_pipeline")
    finally:
        config.write_text(kept)
        networks.write_text(networks_json(all_weights, *NETWORKS))
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)

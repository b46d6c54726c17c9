"""What deploy_trt.sh would do, told without doing it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from face_server.settings import variables

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "deploy_trt.sh"
EXPECTED = Path(__file__).with_name("expected")
TWO_BY_THREE = ("--n_gpu", "2", "--n_workers", "3")
OPTION_SETS = {
    "one_gpu": (),
    "cpu": ("--cpu", "--det_thresh", "0.5", "--name=office", "--det-model", "centerface"),
    "int8": ("--precision=int8", "--calibration=/srv/photos", "--gpus", "1,3", "--rec_model", "adaface", "--models_path", "/srv/my models"),
    "remote": ("--triton_uri", "gpu-1:8001,gpu-2:8001", "--cpu", "--n_workers", "2", "--BIND", "0.0.0.0", "--backend", "triton"),
    "batches": ("--n_gpu", "1", "--n_workers", "1", "--rec_batch_size", "4", "--det_batch_size", "4", "--max_size", "1280,720"),
    "stop": ("--stop",),
}


def dry_run(*options, path="/usr/bin:/bin", **environment):
    """The script, told to touch nothing, as on any machine."""
    line = ["bash", str(SCRIPT), "--dry-run", "--folder", "/srv/face", "--user", "1000:1000", *options]
    return subprocess.run(line, env={"PATH": path, **environment}, capture_output=True, text=True, check=False)


def commands_of(printed):
    """The commands of a dry run, as words."""
    whole = printed.replace("\\\n", " ")
    return [shlex.split(line) for line in whole.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", OPTION_SETS)
def test_it_prints_exactly_these_commands(name):
    """What is printed is what tests/deploy/expected/NAME.txt holds; write that file anew from the script's own output."""
    ended = dry_run(*OPTION_SETS[name])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (EXPECTED / f"{name}.txt").read_text(encoding="utf-8")


def test_the_documentation_explains_what_it_prints():
    """The commands that docs/gpu.md explains one by one are those for two GPUs with three containers each, all of them."""
    page = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
    part = page.partition("<!-- begin: dry run -->")[2].partition("<!-- end: dry run -->")[0]
    shown = "\n".join(re.findall(r"```sh\n(.*?)\n```", part, re.DOTALL))
    printed = dry_run(*TWO_BY_THREE)
    assert [line for line in shown.splitlines() if line] == [line for line in printed.stdout.splitlines() if line]
    assert "6 separate galleries" in printed.stderr


def test_the_documentation_compares_faces(tmp_path, shared, data, face_server):
    """The snippet of docs/gpu.md finds each face of one answer in the other, with its distance and cosine."""
    page = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    photo = shared / "data/photos/scenes/obama_and_biden.jpg"
    for name, backend in (("triton", "onnx"), ("process", "openvino")):
        ended = face_server("extract", photo, "--json", "--data", data, FACE_SERVER_INFERENCE__BACKEND=backend)
        (tmp_path / f"{name}.json").write_text(ended.out)
    ended = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=True)
    compared = re.findall(r"box (\S+) px, cosine (\S+)", ended.stdout)
    assert len(compared) == 3
    assert all(float(distance) < 3 and float(cosine) > 0.99 for distance, cosine in compared)


def test_two_gpus_with_three_containers_each():
    """Six containers on six ports with six galleries, three a GPU, all before one Triton that has both."""
    commands = commands_of(dry_run(*TWO_BY_THREE).stdout)
    started = [command for command in commands if command[:3] == ["docker", "run", "--detach"]]
    assert len(started) == 7
    assert '--gpus="device=0,1"' in started[0]
    for i, command in enumerate(started[1:]):
        assert f"--publish=127.0.0.1:{18081 + i}:18081" in command
        assert f"--gpus=device={i // 3}" in command
        assert f"--volume=face-data{f'-{i}' if i else ''}:/data" in command
        assert "--ipc=container:face-triton" in command


def test_one_gallery_unless_asked_otherwise():
    """However many GPUs there are, one container of face_server holds one gallery, and nothing is warned of."""
    ended = dry_run("--n_gpu", "4")
    assert ended.stdout.count("--name=face-") == 2
    assert "--gpus=" in ended.stdout
    assert ended.stderr == ""


def test_containers_that_share_a_redis_are_not_warned_of(tmp_path):
    """With an address of Redis in the file of settings all containers have the same gallery; without one they have not."""
    settings = tmp_path / "settings.env"
    for text, warned in (("FACE_SERVER_STATE__REDIS_URL=redis://redis:6379/0\n", False), ("FACE_SERVER_LOG_LEVEL=debug\n", True)):
        settings.write_text(text)
        ended = dry_run("--n_workers", "2", "--settings", str(settings))
        assert ended.returncode == 0, ended.stderr
        assert ("separate galleries" in ended.stderr) is warned


def test_it_needs_and_touches_nothing(tmp_path):
    """Without docker, a GPU or a folder that could be written, it prints the same and leaves nothing behind."""
    for tool in ("bash", "sed", "tr", "cut", "seq", "sha256sum", "wc", "id", "basename", "awk"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    before = sorted(tmp_path.iterdir())
    ended = dry_run("--n_gpu", "1", path=str(tmp_path))
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout == dry_run("--n_gpu", "1").stdout
    assert sorted(tmp_path.iterdir()) == before
    assert not Path("/srv/face").exists()


def test_what_it_prints_is_what_it_does(machine):
    """A shell that runs the printed commands asks docker for the same as the script itself, digests aside."""
    options = ("--n_gpu", "2", "--n_workers", "1", "--precision=int8", f"--calibration={machine.folder}", "--det_thresh=0.5")

    def changing(calls):
        words = [[word for word in call if not word.startswith("--label=face_server.config=")] for call in calls]
        return [call for call in words if call[0] in {"run", "pull"} or call[:2] == ["network", "create"]]

    done = machine.deploy(*options)
    assert done.returncode == 0, done.stderr
    as_done = changing(machine.calls)
    (machine.folder / "state.json").unlink()
    shutil.rmtree(machine.deployed)
    printed = machine.deploy("--dry-run", *options).stdout
    assert not (machine.folder / "calls.jsonl").exists()
    environment = {"PATH": str(machine.programs), "FAKE_DOCKER": str(machine.folder)}
    subprocess.run(["bash", "-euc", printed], env=environment, capture_output=True, check=True)
    assert changing(machine.calls) == as_done
    settings = (machine.deployed / "face_server.env").read_text().splitlines()
    assert "FACE_SERVER_ANALYSIS__MIN_SCORE=0.5" in settings


@pytest.mark.parametrize("name", ["int8", "remote"])
def test_a_real_docker_understands_every_command(name):
    """The docker client takes each command as far as the daemon, which is not there: no option is unknown to it."""
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("needs the docker client")
    environment = {**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"}
    for command in commands_of(dry_run(*OPTION_SETS[name]).stdout):
        if command[0] != "docker":
            continue
        if "--env-file=/srv/face/face_server.env" in command:
            command.remove("--env-file=/srv/face/face_server.env")
        ended = subprocess.run([docker, *command[1:]], env=environment, capture_output=True, text=True, check=False)
        assert "Cannot connect to the Docker daemon" in ended.stderr, ended.stderr


def test_every_way_to_set_an_option():
    """In the environment, as two words, as one, with dashes and in small letters: all the same."""
    expected = dry_run("--START_PORT", "19000", "--n_workers", "2").stdout
    assert "127.0.0.1:19001:18081" in expected
    for options in (
        ("--START_PORT=19000", "--n_workers=2"),
        ("--start-port", "19000", "--n-workers", "2"),
        ("--start_port=19000", "--n-workers=2"),
    ):
        assert dry_run(*options).stdout == expected
    assert dry_run(START_PORT="19000", n_workers="2").stdout == expected


def test_names_of_another_system():
    """Detectors of InsightFace-REST are found by their names there; an embedder is never exchanged for another."""
    assert "models pull scrfd_2.5g " in dry_run("--det_model", "scrfd_2.5g_gnkps").stdout
    assert "models pull yunet glintr100\n" in dry_run("--rec_model", "glintr100").stdout.replace("\\\n    ", "")
    assert "repository/centerface_uint8/1/model.plan" in dry_run("--det_model", "centerface").stdout


def test_help_lists_every_option():
    """Each variable at the top of the script, with its meaning and default; the names are those that others know."""
    ended = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    names = re.findall(r'^: "\$\{(\w+):=', SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    known = (
        "n_gpu n_workers START_PORT max_size force_fp16 det_model det_batch_size rec_model rec_batch_size mask_detector ga_model triton_uri"
    )
    known += " return_face_data extract_embeddings detect_ga det_thresh log_level IMAGE TAG"
    assert set(known.split()) <= set(names)
    for name in (*names, "cpu", "dry-run", "status", "stop"):
        assert re.search(rf"^  --{name} +\w", ended.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--mask_detector", "mnv2"), "mask_detector=mnv2: this server detects no masks; leave it at None"),
        (("--ga_model", "genderage_v1"), "this server estimates neither gender nor age"),
        (("--detect_ga", "True"), "this server estimates neither gender nor age"),
        (("--return_face_data", "True"), "a request asks for face data itself"),
        (("--extract_embeddings", "False"), "a request that wants none says so itself"),
        (("--det_model", "yolov5l-face"), "this server has no such detector"),
        (("--precision", "fp8"), "precision=fp8: write fp16, int8 or fp32"),
        (("--precision", "int8"), "precision=int8 needs calibration=FOLDER"),
        (("--precision", "fp32", "--force_fp16", "True"), "contradict each other"),
        (("--max_size", "640"), "write width,height, such as 640,640"),
        (("--max_size", "1920,1080"), "pictures of 32 to 1280 pixels a side"),
        (("--n_gpu", "two"), "n_gpu=two: write a whole number from 1 to 64"),
        (("--START_PORT", "99999"), "START_PORT=99999: write a whole number from 1 to 65000"),
        (("--det_batch_size", "2"), "with rec_batch_size=32 write 8"),
        (("--det_thresh", "60"), "write a number between 0 and 1"),
        (("--log_level", "loud"), "write debug, info, warning or error"),
        (("--triton_uri", "localhost:8001"), "inside of a container that is the container itself"),
        (("--backend", "onnx"), "write triton-pipeline or triton"),
        (("--n_gpus", "2"), "--n_gpus is no option; ./deploy_trt.sh --help lists them"),
        (("--n_gpu",), "--n_gpu needs a value"),
        (("start",), "start is no option"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(options, sentence):
    """A wrong or unknown option ends the script before anything is printed, with code 2 and what to write instead."""
    ended = dry_run(*options)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("deploy_trt.sh: ")
    assert ended.stderr.count("\n") == 1
    assert sentence in ended.stderr


def test_it_fits_the_rest_of_the_project():
    """The release of Triton is the one that docker/Dockerfile builds on, and every variable is a setting."""
    text = SCRIPT.read_text(encoding="utf-8")
    (release,) = re.findall(
        r"^FROM nvcr\.io/nvidia/tritonserver:(\S+)-py3 AS triton$", (REPOSITORY / "docker/Dockerfile").read_text(), re.MULTILINE
    )
    assert f'"${{TRITON_TAG:={release}}}"' in text
    assert set(re.findall(r"FACE_SERVER_[A-Z0-9_]+", text)) - {"FACE_SERVER_"} <= set(variables())


@pytest.mark.parametrize("script", ["deploy_trt.sh", ".ci/run"])
def test_shellcheck_finds_nothing(script):
    """Neither script has what shellcheck warns of."""
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("needs shellcheck (Debian: shellcheck)")
    ended = subprocess.run([program, "--format=json", str(REPOSITORY / script)], capture_output=True, text=True, check=False)
    assert json.loads(ended.stdout) == []

"""deploy_trt.sh on a machine that is played: what is built, started, kept and replaced, and what is said when something fails."""

from __future__ import annotations

import fcntl
import shutil
import socket
import sys
from pathlib import Path

import pytest

FIRST_RUN = [
    "pull nvcr.io/nvidia/tensorrt:25.06-py3",
    "pull",
    "export",
    "trtexec yunet",
    "trtexec sface",
    "network create",
    "run face-triton",
    "run face-0",
]
NOTHING_NEW = ["pull", "export"]
"""Both look at what is there and leave it alone."""


def deploy(machine, *options):
    """Deploy, which must work; what docker changed."""
    ended = machine.deploy(*options)
    assert ended.returncode == 0, ended.stderr
    return machine.changes


def refusal(machine, *options):
    """Deploy, which must fail with one sentence: that sentence."""
    ended = machine.deploy(*options)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if "separate galleries" not in line]
    assert line.startswith("deploy_trt.sh: ")
    return line.removeprefix("deploy_trt.sh: ")


def test_a_first_run_builds_and_starts_everything(machine):
    """Engines lie where Triton looks, each with its stamp; the table names every container."""
    ended = machine.deploy()
    assert ended.returncode == 0, ended.stderr
    assert machine.changes == FIRST_RUN
    stamp = (machine.deployed / "repository/yunet/1/model.plan.stamp").read_text()
    assert "gpu: NVIDIA L4" in stamp
    assert "precision: fp16" in stamp
    assert "maxShapes=images:32x1280x1280x3" in stamp
    table = [line.split() for line in ended.stdout.splitlines()[-3:]]
    assert table == [
        ["CONTAINER", "GPU", "PORT", "STATE", "MODEL", "ENGINE"],
        ["face-0", "0,1", str(machine.port), "running", "healthy", "yunet+sface", "fp16"],
        ["face-triton", "0,1", str(machine.port + 100), "running", "healthy", "yunet+sface", "fp16"],
    ]


def test_a_second_run_changes_nothing(machine):
    """The same containers go on; nothing is built, pulled, started or removed."""
    deploy(machine, "--n_workers", "2")
    containers = machine.containers
    assert deploy(machine, "--n_workers", "2") == NOTHING_NEW
    assert machine.containers == containers


def test_a_stopped_container_is_started(deployed):
    """After a reboot, say: what is as wanted but stands still runs again as it is."""
    containers = deployed.containers
    for name in containers:
        containers[name]["status"] = "exited"
    deployed.knows(containers)
    assert deploy(deployed) == [*NOTHING_NEW, "start face-triton", "start face-0"]


@pytest.mark.parametrize("what", ["gpu", "precision", "batch", "tensorrt", "weights", "plan"])
def test_an_engine_that_does_not_fit_is_built_again(deployed, what):
    """Another kind of GPU, precision, batch, TensorRT or network, or no engine: built anew, and Triton and its clients with it."""
    options = ()
    expected = ["trtexec yunet", "trtexec sface"]
    if what == "gpu":
        deployed.gpus("0, 575.57.08, NVIDIA H100\n1, 575.57.08, NVIDIA H100\n")
    elif what == "precision":
        options = ("--precision", "fp32")
    elif what == "batch":
        options = ("--rec_batch_size", "16")
    elif what == "tensorrt":
        deployed.has_image("nvcr.io/nvidia/tensorrt:25.06-py3", "sha256:newer")
    elif what == "weights":
        deployed.plays(weights={"sface": "other weights"})
        expected = ["trtexec sface"]
    else:
        (deployed.deployed / "repository/yunet/1/model.plan").unlink()
        expected = ["trtexec yunet"]
    changes = deploy(deployed, *options)
    replaced = ["rm face-triton", "run face-triton", "rm face-0", "run face-0"]
    # An engine that was lost comes back equal, and a Triton that runs has it in memory.
    assert changes == [*NOTHING_NEW, *expected, *([] if what == "plan" else replaced)]


def test_only_what_differs_is_replaced(machine):
    """Another log level is nothing to Triton; other ports are exchanged without meeting; what is too much goes."""
    deploy(machine, "--n_workers", "1")
    changes = deploy(machine, "--n_workers", "1", "--log_level", "debug")
    assert changes == [*NOTHING_NEW, "rm face-0", "rm face-1", "run face-0", "run face-1"]
    up = ("--n_workers", "1", "--log_level", "debug", "--START_PORT", str(machine.port + 1))
    assert deploy(machine, *up) == [*NOTHING_NEW, "rm face-0", "rm face-1", "run face-0", "run face-1"]
    assert deploy(machine, *up[2:]) == [*NOTHING_NEW, "rm face-1", "rm face-0", "run face-0"]
    assert sorted(machine.containers) == ["face-0", "face-triton"]


def test_a_new_image_replaces_its_containers(deployed):
    """A face_server that was built anew takes the place of the old one; Triton goes on."""
    deployed.has_image("face_server:gpu", "sha256:newer")
    assert deploy(deployed) == [*NOTHING_NEW, "rm face-0", "run face-0"]


def test_a_file_of_settings_reaches_the_containers(machine):
    """Its variables are given to face_server; a change of it replaces those containers."""
    extra = machine.folder / "extra.env"
    extra.write_text("FACE_SERVER_STREAMS__MAX_STREAMS=8\n")
    deploy(machine, "--settings", str(extra))
    assert f"--env-file={extra}" in next(call for call in machine.calls if "--name=face-0" in call)
    extra.write_text("FACE_SERVER_STREAMS__MAX_STREAMS=9\n")
    assert deploy(machine, "--settings", str(extra)) == [*NOTHING_NEW, "rm face-0", "run face-0"]


def test_without_a_gpu(machine):
    """--cpu builds no engine, asks for no GPU and takes the image of face_server that needs none."""
    (machine.programs / "nvidia-smi").unlink()
    assert deploy(machine, "--cpu") == ["pull", "export", "network create", "run face-triton", "run face-0"]
    assert not [word for call in machine.calls for word in call if word.startswith("--gpus") or "tensorrt" in word]
    assert machine.containers["face-0"]["image"] == "face_server:cpu"
    assert [call for call in machine.calls if "export" in call and "--to=onnxruntime" in call and "--cpu" in call]


def test_before_a_triton_that_runs_elsewhere(deployed):
    """With triton_uri no Triton is started and no engine built; one that was started before goes."""
    assert deploy(deployed, "--triton_uri", "gpu-1:8001") == ["pull", "rm face-triton", "rm face-0", "run face-0"]
    assert "FACE_SERVER_TRITON__ENDPOINTS=gpu-1:8001" in (deployed.deployed / "face_server.env").read_text()


def test_another_network_leaves_no_old_one_behind(deployed):
    """A model that Triton need not load any more is removed from the repository, its engine too."""
    changes = deploy(deployed, "--det_model", "scrfd_500m")
    assert changes == [*NOTHING_NEW, "trtexec scrfd_500m", "rm face-triton", "run face-triton", "rm face-0", "run face-0"]
    assert not (deployed.deployed / "repository/yunet").exists()


def test_int8_is_the_detectors_after_calibration(machine):
    """Its engine is built from the graph with the ranges of its tensors; the embedder's arithmetic is finer."""
    changes = deploy(machine, "--precision=int8", f"--calibration={machine.folder}")
    assert changes[2:6] == ["export", "face_server.commands.calibration", "trtexec yunet", "trtexec sface"]
    detector, embedder = [call for call in machine.calls if "trtexec" in call]
    assert {"--onnx=model.int8.onnx", "--int8", "--fp16"} <= set(detector)
    assert {"--onnx=model.onnx", "--fp16"} <= set(embedder)
    assert "--int8" not in embedder


def test_status_and_stop(machine):
    """The table can be asked for; after stopping nothing runs, and galleries, weights and engines are where they were."""
    assert refusal(machine, "--status") == "nothing of the deployment face runs; ./deploy_trt.sh starts it"
    deploy(machine)
    shown = machine.deploy("--status")
    assert shown.stdout.splitlines()[1].startswith("face-0 ")
    assert machine.changes == []
    stopped = machine.deploy("--stop")
    assert stopped.returncode == 0
    assert machine.changes == ["stop face-0 face-triton", "rm face-0 face-triton", "network rm"]
    assert deploy(machine) == [*NOTHING_NEW, "network create", "run face-triton", "run face-0"]


def test_a_build_that_fails_names_the_log_and_leaves_no_engine(machine):
    """The first error of trtexec and the path of its log; nothing is started, and the next run builds again."""
    machine.plays(fails=[["trtexec", "[I] reading\n[E] Error[4]: kernel needs more memory\n&&&& FAILED TensorRT.trtexec"]])
    sentence = refusal(machine)
    assert sentence.startswith("the engine of yunet cannot be built: [E] Error[4]: kernel needs more memory; all that was said is in ")
    log = Path(sentence.rpartition(" ")[2])
    assert "[I] reading" in log.read_text()
    assert not (machine.deployed / "repository/yunet/1/model.plan.stamp").exists()
    assert machine.changes[-1] == "trtexec yunet"
    machine.plays()
    assert "trtexec yunet" in deploy(machine)


def test_a_container_that_does_not_become_ready(machine):
    """It is waited for as long as was said, then named; it goes on, and another run goes on waiting."""
    machine.plays(health={"face-0": "starting"})
    assert refusal(machine, "--timeout_s", "1").startswith("face-0 is not ready after 1 s; docker logs face-0 says what it does")
    machine.plays()
    assert deploy(machine, "--timeout_s", "1") == NOTHING_NEW


def test_a_container_that_dies(machine):
    """Nobody waits for what ended: its last words are passed on at once."""
    machine.plays(dies=["face-triton"])
    assert refusal(machine) == "face-triton does not stay up: port 18081 cannot be opened: it is in use; docker logs face-triton says more"


def test_a_port_that_is_taken(machine):
    """Named before anything is built."""
    with socket.create_server(("127.0.0.1", machine.port + 1)):
        sentence = refusal(machine, "--n_workers", "2", "--gpus", "0")
    assert f"port {machine.port + 1} is taken by another program" in sentence
    assert machine.changes == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            "the Docker daemon does not answer; start it: sudo systemctl start docker",
        ),
        ("permission denied while trying to connect to the Docker daemon socket", "you may not use Docker; run this with sudo"),
    ],
)
def test_a_daemon_that_is_away(machine, said, sentence):
    """Said before anything else is asked of it."""
    machine.plays(daemon=said)
    assert refusal(machine).startswith(sentence)
    assert len(machine.calls) == 1


def test_without_docker(machine):
    """The program itself is missing."""
    (machine.programs / "docker").unlink()
    assert refusal(machine).startswith("docker is not installed")


@pytest.mark.parametrize(
    ("seen", "code", "options", "sentence"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            9,
            (),
            "no GPU is visible: NVIDIA-SMI has failed",
        ),
        ("No devices were found", 0, (), "no GPU is visible: No devices were found"),
        ("0, 525.60.13, Tesla T4\n", 0, (), "the NVIDIA driver 525.60.13 is too old for release 25.06"),
        ("0, 575.57.08, NVIDIA L4\n", 0, ("--n_gpu", "2"), "there is no GPU 1: this machine has 1"),
        ("0, 575.57.08, NVIDIA L4\n1, 575.57.08, NVIDIA T4\n", 0, (), "the GPUs 0,1 are of different kinds"),
    ],
)
def test_gpus_that_do_not_do(machine, seen, code, options, sentence):
    """No GPU, an old driver, too few GPUs or different ones are told apart."""
    machine.gpus(seen, code)
    assert refusal(machine, *options).startswith(sentence)
    assert machine.changes == []


def test_one_gpu_of_several_kinds_may_be_chosen(machine):
    """The odd one is left to another deployment."""
    machine.gpus("0, 575.57.08, NVIDIA L4\n1, 575.57.08, NVIDIA T4\n")
    deploy(machine, "--gpus", "1")
    assert "gpu: NVIDIA T4" in (machine.deployed / "repository/yunet/1/model.plan.stamp").read_text()


@pytest.mark.parametrize(
    ("word", "said", "sentence"),
    [
        (
            "tensorrt",
            "Error response from daemon: manifest unknown",
            "the image nvcr.io/nvidia/tensorrt:25.06-py3 is missing and cannot be pulled",
        ),
        ("tensorrt", "write /var/lib/docker: no space left on device", "the disk is full; free some space"),
        ("trtexec", "docker: could not select device driver with capabilities: [[gpu]].", "install the NVIDIA Container Toolkit"),
        ("trtexec", "unsatisfied condition: cuda>=12.9", "the NVIDIA driver is too old for release 25.06"),
        ("--name=face-0", "Bind for 127.0.0.1:18081 failed: port is already allocated", "face-0 cannot be started: a port is taken"),
        (
            "export",
            "no network is called 'yunett'; known are yunet",
            "the model repository cannot be written: no network is called 'yunett'",
        ),
        ("--name=face-triton", "Cannot connect to the Docker daemon", "the Docker daemon went away"),
    ],
)
def test_what_docker_says_becomes_one_sentence(machine, word, said, sentence):
    """With what to do, and for what nobody foresaw with the path of the log."""
    machine.plays(fails=[[word, said]])
    assert sentence in refusal(machine)


def test_an_image_that_was_not_built(machine):
    """The command that builds it is part of the sentence."""
    assert refusal(machine, "--TAG", "cpu2") == (
        "the image face_server:cpu2 is missing; build it: docker build --file docker/Dockerfile --target cpu2 --tag face_server:cpu2 ."
    )


def test_a_triton_of_another_release(machine):
    """Its TensorRT could not read the engines."""
    machine.plays(release="24.12")
    assert "is made from release 24.12, but 25.06 would build the engines; set TRITON_TAG=24.12" in refusal(machine)


def test_too_little_space(machine):
    """Engines need some room before anything is begun."""
    (machine.programs / "df").unlink()
    machine.install("df", "#!/bin/sh\necho head\necho disk 100 99 1000 99% /\n")
    assert "has less than 2 GB of free space" in refusal(machine)


def test_two_at_a_time(machine):
    """The second one leaves the folder to the first."""
    machine.deployed.mkdir()
    with (machine.deployed / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another deploy_trt.sh works on" in refusal(machine)


def test_with_the_real_export(machine, weights):
    """The commands of face_server are the real ones: the repository they write is what the engines are built from."""
    (machine.deployed / "weights").mkdir(parents=True)
    shutil.copytree(weights.folder, machine.deployed / "weights/models", ignore=shutil.ignore_patterns("centerface", ".incomplete*"))
    machine.plays(face_server=str(Path(sys.executable).with_name("face-server")))
    deploy(machine, "--n_gpu", "1", "--rec_batch_size", "16")
    repository = machine.deployed / "repository"
    assert {place.name for place in repository.iterdir()} >= {"yunet", "sface", "face_pipeline"}
    assert "max_batch_size: 16" in (repository / "sface/config.pbtxt").read_text()
    assert "sface cannot" not in (machine.deployed / "logs/deploy.log").read_text()
    assert "shapes: --minShapes=" in (repository / "sface/1/model.plan.stamp").read_text()
    containers = machine.containers
    assert deploy(machine, "--n_gpu", "1", "--rec_batch_size", "16") == NOTHING_NEW
    assert machine.containers == containers

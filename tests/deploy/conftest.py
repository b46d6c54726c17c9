"""deploy_trt.sh on a machine that is played: a docker, an nvidia-smi and nothing else of the kind on the PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "deploy_trt.sh"
TWO_GPUS = "0, 575.57.08, NVIDIA L4\n1, 575.57.08, NVIDIA L4\n"
TOOLS = ("awk", "basename", "bash", "cat", "cmp", "cut", "df", "env", "find", "flock", "grep", "head", "id", "mkdir", "mv")
TOOLS += ("rm", "sed", "seq", "sha256sum", "sleep", "sort", "tac", "tail", "tr", "wc")


@dataclass
class Machine:
    """What the script finds, and what it did with it."""

    folder: Path
    port: int
    programs: Path = field(init=False)
    deployed: Path = field(init=False)

    def __post_init__(self) -> None:
        self.deployed = self.folder / "deployed"
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        for tool in TOOLS:
            found = next(Path(place) / tool for place in ("/usr/bin", "/bin") if (Path(place) / tool).exists())
            (self.programs / tool).symlink_to(found)

    def install(self, program: str, script: str) -> None:
        """Put a program on the PATH."""
        (self.programs / program).write_text(script)
        (self.programs / program).chmod(0o755)

    def install_docker(self) -> None:
        """A docker that remembers."""
        self.install("docker", f'#!/bin/sh\nexec {sys.executable} -IS {Path(__file__).with_name("fake_docker.py")} "$@"\n')

    def gpus(self, said: str, code: int = 0) -> None:
        """Let nvidia-smi say what the driver sees."""
        (self.folder / "gpus").write_text(said)
        self.install("nvidia-smi", f"#!/bin/sh\ncat {self.folder}/gpus\nexit {code}\n")

    def plays(self, **scenario: object) -> None:
        """What docker does from now on; see fake_docker.py."""
        (self.folder / "scenario.json").write_text(json.dumps(scenario))

    def has_image(self, name: str, identity: str) -> None:
        """Let docker have another image under this name."""
        state = json.loads((self.folder / "state.json").read_text())
        state["images"][name] = identity
        (self.folder / "state.json").write_text(json.dumps(state))

    def knows(self, containers: dict[str, dict[str, object]]) -> None:
        """Let docker have these containers."""
        state = json.loads((self.folder / "state.json").read_text())
        (self.folder / "state.json").write_text(json.dumps({**state, "containers": containers}))

    def deploy(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script; the calls of docker are counted anew."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        environment = {"PATH": str(self.programs), "FAKE_DOCKER": str(self.folder), "HOME": str(self.folder), **variables}
        ports = ("--START_PORT", str(self.port), "--TRITON_PORT", str(self.port + 100))
        line = ["bash", str(SCRIPT), "--folder", str(self.deployed), "--user", "1000:1000", *ports, *options]
        return subprocess.run(line, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def calls(self) -> list[list[str]]:
        """What docker was asked since the last ``deploy`` began."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    @property
    def changes(self) -> list[str]:
        """What docker was asked to change: the verb, and the container or what runs in it."""
        return [described for described in map(_change, self.calls) if described]

    @property
    def containers(self) -> dict[str, dict[str, object]]:
        """The containers that docker knows."""
        return dict(json.loads((self.folder / "state.json").read_text())["containers"])


def _change(call: list[str]) -> str:
    match call:
        case ["run", "--rm", *rest]:
            work = next((word for word in rest if word in {"pull", "export", "trtexec", "face_server.commands.calibration"}), "?")
            model = next((word.rpartition("/")[2] for word in rest if word.startswith("--workdir=/repository/")), "")
            return f"{work} {model}".strip()
        case ["run", "--detach", name, *_]:
            return f"run {name.partition('=')[2]}"
        case ["rm" | "start" | "stop" | "pull", *rest]:
            return " ".join([call[0], *(word for word in rest if not word.startswith("--"))])
        case ["network", "create" | "rm", _]:
            return " ".join(call[:2])
    return ""


def _machine(folder: Path) -> Machine:
    """A machine with docker and two GPUs of one kind, and ports of its own that the system gives to nobody."""
    place = Machine(folder, 20_000 + os.getpid() % 5_000)
    place.install_docker()
    place.gpus(TWO_GPUS)
    return place


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that nothing was deployed on."""
    return _machine(tmp_path)


@pytest.fixture(scope="session")
def _first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Path]:
    place = _machine(tmp_path_factory.mktemp("machine"))
    ended = place.deploy()
    assert ended.returncode == 0, ended.stderr
    return place, Path(shutil.copytree(place.folder, tmp_path_factory.mktemp("kept") / "machine", symlinks=True))


@pytest.fixture
def deployed(_first_run: tuple[Machine, Path]) -> Machine:
    """A machine as it is after a first run without options."""
    place, kept = _first_run
    shutil.rmtree(place.folder)
    shutil.copytree(kept, place.folder, symlinks=True)
    return place

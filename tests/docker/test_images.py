"""docker/Dockerfile: what can be known of it without an engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.triton_server import TritonServer
from benchmarks.triton_server import missing as triton_missing
from face_server import __version__
from tests.conftest import REPOSITORY
from tests.docker.dockerfile import DOCKER, DOCKERFILE, Throwaway, stages, why_impossible

IMAGES = ("cpu", "gpu", "triton")
TAG = re.compile(r":[0-9][^\s@]*[0-9a-z]$")


def test_hadolint() -> None:
    """The linter of Dockerfiles has nothing to say."""
    program = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([program, "--no-color", DOCKERFILE], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_entrypoint_lint() -> None:
    """Nor has the linter of shell scripts about the entry point."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    ended = subprocess.run(["shellcheck", DOCKER / "entrypoint.sh"], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_pinned() -> None:
    """Images that stages start from have a version, and so has every Python package."""
    found = stages()
    for stage in found.values():
        assert stage.base in found or TAG.search(stage.base), stage.base
    lines = [line for file in DOCKER.glob("*requirements.txt") for line in file.read_text().splitlines()]
    packages = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert [line for line in packages if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    runs = " ".join(one.rest for stage in found.values() for one in stage.all("RUN"))
    assert "hatchling==" in runs
    assert "opencv-contrib-python-headless==" in runs


@pytest.mark.parametrize("image", IMAGES)
def test_locked_down(image: str) -> None:
    """An image runs as the same ordinary user everywhere, says whether it is well, and keeps nothing outside of its volume."""
    stage = stages()[image]
    assert stage.last("USER").rest == "10001:10001"
    assert stage.last("HEALTHCHECK").rest.startswith("CMD [")
    assert stage.last("VOLUME").words == (["/models"] if image == "triton" else ["/data"])
    assert not [one for one in stage.all("ENV") if re.search("secret|key|password|token", one.rest, re.IGNORECASE)]


def test_context() -> None:
    """What the Dockerfile copies passes its .dockerignore; tests, data and secrets do not."""
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        source
        for stage in stages().values()
        for one in stage.all("COPY")
        if not any(flag.startswith("--from") for flag in one.flags)
        for source in one.words[:-1]
    }
    assert {source for source in copied if not any(Path(source).match(rule) or source.startswith(f"{rule}/") for rule in allowed)} == set()
    assert all((REPOSITORY / source).exists() for source in copied)


def test_triton_release() -> None:
    """The image triton is made from the release that deploy_trt.sh builds engines with: they are good for that one only."""
    wanted = re.search(r"TRITON_TAG:=([0-9.]+)", (REPOSITORY / "deploy_trt.sh").read_text())
    assert wanted is not None
    assert stages()["triton"].base == f"nvcr.io/nvidia/tritonserver:{wanted.group(1)}-py3"


def report(requirements: str, python: str) -> dict[str, dict[str, Any]]:
    """Metadata of the packages that ``requirements`` would install, by name; fails where one cannot be had."""
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
    ]
    if python != "3.11" or sys.version_info[:2] != (3, 11):
        platforms = [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in (34, 28, 27, 17, 12, 5)]
        line += ["--target=/unused", "--only-binary=:all:", f"--python-version={python}", *platforms]
    ended = subprocess.run([*line, "--report=-", "--requirement", DOCKER / requirements], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return {canonicalize_name(one["metadata"]["name"]): one["metadata"] for one in json.loads(ended.stdout)["install"]}


def unmet(packages: dict[str, dict[str, Any]], wanted: list[str], python: str, extras: set[str]) -> list[str]:
    """What of ``wanted``, and of what that wants, ``packages`` has not."""
    lacking, queue, seen = [], [(text, extra) for text in wanted for extra in {"", *extras}], set[tuple[str, str]]()
    while queue:
        text, extra = queue.pop()
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate(
            {"extra": extra, "python_version": python, "python_full_version": f"{python}.9"}
        ):
            continue
        name = canonicalize_name(one.name)
        if name not in packages or not one.specifier.contains(packages[name]["version"], prereleases=True):
            lacking.append(text)
            continue
        for inner in {"", *one.extras} - {part for known, part in seen if known == name}:
            seen.add((name, inner))
            queue += [(line, inner) for line in packages[name].get("requires_dist", [])]
    return sorted(set(lacking))


def dependencies(extra: str) -> list[str]:
    """What face_server asks for."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return wanted


LOCKS = pytest.mark.parametrize(
    ("requirements", "python", "extra", "elsewhere"),
    [
        ("cpu-requirements.txt", "3.11", "openvino", set()),
        # The one is called onnxruntime-gpu there, the other is built by the Dockerfile.
        ("gpu-requirements.txt", "3.12", "", {"onnxruntime", "opencv-python-headless"}),
    ],
)


@LOCKS
def test_direct_dependencies(requirements: str, python: str, extra: str, elsewhere: set[str]) -> None:
    """The lists of packages hold every package that face_server names, in a version that it takes."""
    lines = [*(DOCKER / "requirements.txt").read_text().splitlines(), *(DOCKER / requirements).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    packages = {canonicalize_name(name): {"version": version} for name, version in pairs}
    lacking = unmet(packages, dependencies(extra), python, set())
    assert {canonicalize_name(Requirement(text).name) for text in lacking} == elsewhere, lacking


@pytest.mark.slow
@LOCKS
def test_lock(requirements: str, python: str, extra: str, elsewhere: set[str]) -> None:
    """Every package of an image can be had, and together they are all that face_server asks for, directly or not."""
    lacking = unmet(report(requirements, python), dependencies(extra), python, set())
    assert {canonicalize_name(Requirement(text).name) for text in lacking} == elsewhere, lacking


def test_triton_packages() -> None:
    """What models import inside of Triton can be had for the Python 3.12 of its image."""
    assert report("triton-requirements.txt", "3.12")["numpy"]["version"].startswith("1.26.")


def test_debian_packages() -> None:
    """Packages of the distribution exist, where this machine has the same distribution."""
    needed = {
        stage.name: re.findall(r"apt-get install --yes --no-install-recommends (.*?) *&&", one.rest)
        for stage in stages().values()
        for one in stage.all("RUN")
        if "apt-get" in one.rest
    }
    assert set(needed) == {"opencv", "gpu-base"}, "the image cpu is made without packages of Debian's"
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if release.get("VERSION_ID") != '"24.04"':
        pytest.skip(f"the image gpu is Ubuntu 24.04, this machine {release.get('PRETTY_NAME')}")
    for packages in needed.values():
        subprocess.run(
            ["apt-get", "install", "--simulate", "--no-install-recommends", *packages[0].split()], check=True, capture_output=True
        )


def test_wheel(tmp_path: Path) -> None:
    """The wheel that the Dockerfile builds runs in a bare virtual environment, pages and templates included."""
    (line,) = [one.rest for one in stages()["wheel"].all("RUN") if "pip wheel" in one.rest]
    line = line.replace("pip wheel", f"{sys.executable} -m pip wheel --quiet").replace("/dist", str(tmp_path))
    subprocess.run(line.replace("--no-build-isolation", ""), shell=True, cwd=REPOSITORY, check=True, capture_output=True)
    venv.create(tmp_path / "bare", with_pip=False)
    (packages,) = (tmp_path / "bare" / "lib").glob("python3*/site-packages")
    (wheel,) = tmp_path.glob("*.whl")
    install = ["install", "--quiet", "--no-deps", "--disable-pip-version-check", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", tmp_path / "bare" / "bin" / "python", *install], check=True)
    assert {path.suffix for path in (packages / "face_server" / "web").rglob("*")} >= {".html", ".js", ".css"}
    # What face_server imports is this environment's; what it is itself comes first on the path.
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    ended = subprocess.run(
        [tmp_path / "bare" / "bin" / "face-server", "--version"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"face-server {__version__}\n", "")


@pytest.mark.slow
def test_cpu_image(tmp_path: Path) -> None:
    """Every step of the image cpu, run in a throwaway root, makes a server that starts with nothing but /data and /tmp to write to."""
    if reason := why_impossible():
        pytest.skip(reason)
    check = shlex.join(health("cpu"))
    printed = Throwaway(tmp_path).run(
        "cpu",
        f"""
        id -u; face-server --version; ! touch /opt/x 2>/dev/null; ls /opt/models
        entrypoint.sh serve >/tmp/out 2>/tmp/log & server=$!
        ready=no; for i in $(seq 120); do if {check} 2>/dev/null; then ready=yes; break; fi; sleep 0.5; done
        echo ready $ready; cat /tmp/out /tmp/log; stat -c %a /data/first-admin-key; wc -l </data/first-admin-key
        [ -e /data/secret.key ] || echo key from the secret
        kill $server; wait $server; echo ended
        """,
        timeout=900,
    )
    assert printed.startswith(f"10001\nface-server {__version__}\n")
    for expected in (
        "licences.json",
        "centerface.onnx",
        "ready yes",
        "the first admin key is in",
        "\n600\n1\nkey from the secret\nended\n",
    ):
        assert expected in printed


def health(image: str) -> list[str]:
    """The health check of an image, as words."""
    words: list[str] = json.loads(stages()[image].last("HEALTHCHECK").rest.removeprefix("CMD "))
    return words


def test_triton_command(tmp_path: Path) -> None:
    """A real tritonserver takes the options of the image triton, and its health check finds it well."""
    if reason := triton_missing():
        pytest.skip(reason)
    program, *options = stages()["triton"].last("CMD").words
    assert program == "tritonserver"
    assert "--model-repository=/models" in options
    with TritonServer(tmp_path, arguments=tuple(option for option in options if "model-repository" not in option)) as server:
        _, *check = [word.replace("8000", str(server.http_port)) for word in health("triton")]
        assert subprocess.run([sys.executable, *check], check=False).returncode == 0

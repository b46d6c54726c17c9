"""A real tritonserver on loopback, from the wheel nvidia-pytriton: CPU only, Python backend only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_REPOSITORY = Path(__file__).resolve().parent.parent
_WHEEL = "nvidia-pytriton==0.7.0"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_REQUIREMENTS = _REPOSITORY / "docker" / "triton-requirements.txt"
_START_S = 60.0
_SHARED_MEMORY = Path("/dev/shm")


def home() -> Path:
    """Where the server and the Python environment of its models are kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "face_server" / f"triton-{_VERSION}"


def unsuitable() -> str:
    """Why no tritonserver can run on this machine, as a sentence; empty if one can."""
    if _VERSION not in {"3.11", "3.12"}:
        return f"the Python backend of this tritonserver needs NumPy 1, which Python {_VERSION} has not"
    if not _libpython():
        return f"libpython{_VERSION}.so is not installed (Debian: libpython{_VERSION})"
    return ""


def missing() -> str:
    """Why no tritonserver can be started now, as a sentence; empty if one can."""
    if reason := unsuitable():
        return reason
    if not (home() / "ready").is_file() or (home() / "ready").read_bytes() != _REQUIREMENTS.read_bytes():
        return "tritonserver is not prepared: run `make triton`"
    return ""


def prepare() -> None:
    """Fetch the server, and make the environment its models run in, unless that is done or the machine unsuitable. Blocks for a minute."""
    if unsuitable() or not missing():
        return
    folder = home()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", downloads, _WHEEL], check=True)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(("pytriton/tritonserver/", "nvidia_pytriton.libs/"))]
            archive.extractall(folder, members)
        target = folder / "site-packages"
        subprocess.run([*pip, "install", "--no-deps", "--target", str(target), "--requirement", str(_REQUIREMENTS)], check=True)
    stub = "triton_python_backend_stub"
    shutil.copy(folder / "pytriton/tritonserver/python_backend_stubs" / _VERSION / stub, _backends() / "python" / stub)
    for program in (_backends() / "python" / stub, _binary()):
        program.chmod(0o755)
    (folder / "ready").write_bytes(_REQUIREMENTS.read_bytes())


@dataclass
class TritonServer:
    """One server with ``repository`` on free ports of loopback, which it keeps over restarts. Every method blocks.

    With ``models`` only those are loaded at first (explicit model control); without, all.
    """

    repository: Path
    models: Sequence[str] | None = None
    arguments: tuple[str, ...] = ()
    strict: bool = True
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="tritonserver-"))
    _prefix: str = field(default_factory=lambda: f"triton_{uuid.uuid4().hex[:8]}_")
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where gRPC is spoken: host:port."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def log(self) -> Path:
        """What it writes while it runs."""
        return Path(self._folder.name) / "log"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running().pid

    def start(self) -> Self:
        """Start, and wait until it is ready. Raises RuntimeError with the end of its log if that fails twice.

        On a busy machine this version now and then dies while it makes the processes of its models.
        """
        try:
            return self._start()
        except RuntimeError:
            return self._start()

    def _start(self) -> Self:
        if not self.grpc_port:
            self.grpc_port, self.http_port, self.metrics_port = _free_ports(3)
        libraries = [str(home() / "nvidia_pytriton.libs"), str(Path(_libpython()).parent)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FACE_SERVER_", "PYTHON", "VIRTUAL_ENV"))},
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": os.pathsep.join([str(_environment(Path(self._folder.name)) / "bin"), os.environ["PATH"]]),
        }
        with self.log.open("ab") as log:
            # A session of its own, so that the processes of its models end with it.
            self._process = subprocess.Popen(self.line(), stdout=log, stderr=log, env=environment, start_new_session=True)
        started = time.monotonic()
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() - started > _START_S:
                self.kill()
                raise RuntimeError(f"tritonserver did not start:\n{self.log_tail()}")
            time.sleep(0.05)
        return self

    def line(self) -> list[str]:
        """The command."""
        control = []
        if self.models is not None:
            control = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in self.models)]
        return [
            str(_binary()),
            f"--model-repository={self.repository}",
            f"--backend-directory={_backends()}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--backend-config=python,shm-default-byte-size=16777216",
            "--grpc-address=127.0.0.1",
            "--http-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}",
            f"--http-port={self.http_port}",
            f"--metrics-port={self.metrics_port}",
            f"--strict-readiness={str(self.strict).lower()}",
            "--exit-timeout-secs=5",
            *control,
            *self.arguments,
        ]

    def is_ready(self) -> bool:
        """Whether it says that it is."""
        try:
            self._ask("/v2/health/ready")
        except OSError:
            return False
        return True

    def load(self, model: str) -> None:
        """Load a model of the repository, or load it again."""
        self._ask(f"/v2/repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """Let go of a model."""
        self._ask(f"/v2/repository/models/{model}/unload", {"parameters": {"unload_dependents": False}})

    def index(self) -> dict[str, str]:
        """The state of every model of the repository, by name."""
        return {one["name"]: one.get("state", "") for one in json.loads(self._ask("/v2/repository/index", {}))}

    def metrics(self) -> str:
        """What Prometheus is told."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def stop(self) -> int:
        """End politely; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all its processes without a word to anybody."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stand still, its models too, with every connection open."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        os.killpg(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 40) -> str:
        """The end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self.kill()
        self._folder.cleanup()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("tritonserver is not running")
        return self._process

    def _ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise OSError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        if how == signal.SIGTERM:
            process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20.0)
        # The processes of models outlive a server that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for region in _SHARED_MEMORY.glob(f"{self._prefix}*"):
            region.unlink(missing_ok=True)
        return code


def _binary() -> Path:
    return home() / "pytriton" / "tritonserver" / "bin" / "tritonserver"


def _backends() -> Path:
    return home() / "pytriton" / "tritonserver" / "backends"


def _environment(folder: Path) -> Path:
    """A virtual environment that holds what models need and this checkout: the Python backend looks at nothing but the PATH."""
    environment = folder / "environment"
    packages = environment / "lib" / f"python{_VERSION}" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (environment / "bin").mkdir(exist_ok=True)
    program = environment / "bin" / "python3"
    program.unlink(missing_ok=True)
    program.symlink_to(Path(sys.base_prefix) / "bin" / f"python{_VERSION}")
    (environment / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    (packages / "models.pth").write_text(f"{home() / 'site-packages'}\n{_REPOSITORY}\n")
    return environment


def _libpython() -> str:
    """The shared library of this Python, which the Python backend loads; empty where there is none."""
    name = f"libpython{_VERSION}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR") or "", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"]
    found = [Path(folder) / name for folder in folders if (Path(folder) / name).is_file()]
    return str(found[0]) if found else ""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    prepare()

"""docker/compose.yaml, as docker-compose understands it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from face_server.settings import ENV_PREFIX, Settings, variables
from tests.docker.dockerfile import DOCKER, stages

PROFILES = {
    "cpu": {"face_server"},
    "gpu": {"face_server_gpu"},
    "triton": {"face_server_triton", "repository", "triton"},
    "redis": {"redis"},
    "mediamtx": {"mediamtx"},
}
SERVERS = ("face_server", "face_server_gpu", "face_server_triton")


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run docker-compose on the file; skips where it is not installed."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    line = [program, "--file", str(DOCKER / "compose.yaml"), *arguments]
    return subprocess.run(line, check=False, capture_output=True, text=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **variables})


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Every service, merged and with variables filled in."""
    ended = compose("config")
    assert ended.returncode == 0, ended.stderr
    loaded: dict[str, Any] = yaml.safe_load(ended.stdout)["services"]
    return loaded


def settings_of(environment: Mapping[str, object], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server would make of an environment; fails for a setting that does not exist."""
    for name, value in environment.items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, str(value))
    return Settings.load()


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(profile: str) -> None:
    """Each profile is valid and brings the services that its line at the top of the file names."""
    ended = compose("--profile", profile, "config", "--services")
    assert ended.returncode == 0, ended.stderr
    loaded = yaml.safe_load(compose("--profile", profile, "config").stdout)["services"]
    assert {name for name in ended.stdout.split() if profile in loaded[name]["profiles"]} == PROFILES[profile]


def test_every_service(services: dict[str, Any]) -> None:
    """Every service has a read-only root, bounds, no capabilities and no way to more, a pinned image, and says whether it is well."""
    images = stages()
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["pids_limit"] > 0, name
        if "build" in service:
            stage = images[service["build"]["target"]]
            assert service["image"] == f"face_server:{stage.name}"
            assert stage.last("HEALTHCHECK"), name
        else:
            assert re.search(r":[0-9]+\.[0-9]+\.[0-9]+", service["image"]), name
            assert service["healthcheck"]["test"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


@pytest.mark.parametrize("name", SERVERS)
def test_settings(name: str, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes its settings, those by file among them; its port, data folder and user are the image's."""
    service = services[name]
    image = stages()[service["build"]["target"]].environment
    settings = settings_of({**image, **service["environment"]}, monkeypatch)
    assert service["ports"] == [f"127.0.0.1:18081:{settings.port}/tcp"]
    assert service["volumes"] == [f"data:{settings.data}:rw"]
    assert {secret["source"] for secret in service["secrets"]} <= set(variables())
    assert not [name for name in service["environment"] if re.search("KEY$|HEADERS", name)], "secrets are given by file"


def test_triton_together(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the server stands the Triton beside it, started after its models were written, with which it shares memory."""
    server, triton, repository = services["face_server_triton"], services["triton"], services["repository"]
    settings = settings_of(server["environment"], monkeypatch)
    assert settings.inference.backend == "triton-pipeline"
    assert settings.triton.endpoints == ("triton:8001",)
    assert settings.triton.shared_memory == "system"
    assert settings.triton.shared_memory_bytes < 1024**3
    assert (server["ipc"], triton["ipc"], triton["shm_size"]) == ("service:triton", "shareable", "1g")
    assert "user" not in server
    assert "user" not in triton
    assert set(server["networks"]) & set(triton["networks"]) == {"back"}
    assert "ports" not in triton, "Triton asks nobody for a key"
    assert server["depends_on"] == {"triton": {"condition": "service_healthy"}}
    assert triton["depends_on"] == {"repository": {"condition": "service_completed_successfully"}}
    assert (repository["volumes"], triton["volumes"]) == (["models:/models:rw"], ["models:/models:ro"])


def test_without_gpu() -> None:
    """One variable runs Triton where there is no GPU, another chooses how the models are written."""
    loaded = yaml.safe_load(compose("--profile", "triton", "config", RUNTIME="runc", PLATFORM="python").stdout)["services"]
    assert loaded["triton"]["runtime"] == "runc"
    assert loaded["repository"]["command"] == ["models", "export", "--to", "python", "--force", "/models"]


def test_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would notice a setting that does not exist."""
    with pytest.raises(Exception, match="FACE_SERVER_TRITON__ENDPOINT is not a setting"):
        settings_of({"FACE_SERVER_TRITON__ENDPOINT": "triton:8001"}, monkeypatch)

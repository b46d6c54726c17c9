"""docker/k8s: what can be known of it without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.triton_server import TritonServer
from benchmarks.triton_server import missing as triton_missing
from face_server.settings import ENV_PREFIX, Settings
from tests.docker.dockerfile import DOCKER, stages

FOLDER = DOCKER / "k8s"
VALIDATED = "1.33", "1.37"


def documents() -> list[dict[str, Any]]:
    """Every object that the kustomization names."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [one for name in names for one in yaml.safe_load_all((FOLDER / name).read_text())]


def workloads() -> dict[str, dict[str, Any]]:
    """Pod templates by name."""
    return {one["metadata"]["name"]: one["spec"]["template"] for one in documents() if one["kind"] in {"Deployment", "StatefulSet"}}


def containers() -> list[tuple[str, dict[str, Any]]]:
    """Every container with the name of its workload."""
    return [
        (name, container)
        for name, template in workloads().items()
        for container in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]
    ]


@pytest.mark.parametrize("version", VALIDATED)
def test_schema(version: str) -> None:
    """Every object is what Kubernetes of this version takes, without a field it does not know."""
    validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    for one in documents():
        validate.validate(one, version, strict=True)


def test_kustomization() -> None:
    """All of it is put together, in one namespace, with the images of one registry."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    ended = subprocess.run(["kubectl", "kustomize", FOLDER], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    built = list(yaml.safe_load_all(ended.stdout))
    assert len(built) == len(documents())
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"face-server"}
    tags = {image for image in re.findall(r"image: (\S+)", ended.stdout) if "face_server" in image}
    assert tags == {"registry.example/face_server:cpu", "registry.example/face_server:triton"}


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes the settings it is given; nothing that Kubernetes adds looks like one."""
    template = workloads()["face-server"]["spec"]
    (server,) = template["containers"]
    given = {one["name"]: one.get("value", "ab" * 32) for one in server["env"]}
    for name, value in {**stages()["cpu"].environment, **given}.items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.triton.endpoints == ("triton:8001",)
    assert settings.triton.shared_memory == "off"
    assert [port["containerPort"] for port in server["ports"]] == [settings.port]
    assert str(settings.data) in {mount["mountPath"] for mount in server["volumeMounts"]}
    assert template["enableServiceLinks"] is False
    assert [one["name"] for one in server["env"] if "valueFrom" in one] == ["FACE_SERVER_STREAMS__SECRET_KEY"]


def test_locked_down() -> None:
    """Every container runs as an ordinary user on a read-only root without capabilities, within bounds; no secret is written down."""
    for name, template in workloads().items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
    for name, container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
    for name in ("face-server", "triton"):
        assert workloads()[name]["spec"]["securityContext"]["runAsUser"] == 10001, "as in the images"
    assert not [one for one in documents() if one["kind"] == "Secret"]


def test_probes() -> None:
    """Probes ask routes that exist, on ports that have the name."""
    for name, container in containers():
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [value for key, value in container.items() if key.endswith("Probe")]
        assert probes or container["name"] == "repository", name
        for probe in probes:
            assert next(probe[kind]["port"] for kind in ("httpGet", "tcpSocket") if kind in probe) in ports
    (server,) = workloads()["face-server"]["spec"]["containers"]
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_names_fit() -> None:
    """Services, budgets, policies and the autoscaler mean pods that exist; volumes that are mounted exist too."""
    labels = {template["metadata"]["labels"]["app"] for template in workloads().values()}
    for one in documents():
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", selector).get("app")
        assert wanted is None or wanted in labels, one["metadata"]["name"]
        if one["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] in workloads()
    claims = {
        one["metadata"]["name"]: one["spec"].get("volumeClaimTemplates", []) for one in documents() if "template" in one.get("spec", {})
    }
    for name, template in workloads().items():
        known = {volume["name"] for volume in template["spec"]["volumes"]} | {claim["metadata"]["name"] for claim in claims[name]}
        used = {mount["name"] for owner, container in containers() if owner == name for mount in container.get("volumeMounts", [])}
        assert used == known, name


def test_autoscaling() -> None:
    """What the autoscaler asks for is what the adapter's rules offer."""
    rules = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (autoscaler,) = [one for one in documents() if one["kind"] == "HorizontalPodAutoscaler"]
    assert {rule["name"]["as"] for rule in rules} == {metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"]}


def test_triton(tmp_path: Path) -> None:
    """A real tritonserver takes the options, which begin with the image's, and has the metrics that the adapter's rules read."""
    if reason := triton_missing():
        pytest.skip(reason)
    read = set(re.findall(r"nv_[a-z_]+", (FOLDER / "prometheus-adapter.yaml").read_text()))
    assert len(read) == 3
    folder = tmp_path / "any" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    tensors = 'input { name: "x" data_type: TYPE_FP32 dims: [1] } output { name: "y" data_type: TYPE_FP32 dims: [1] }'
    (folder.parent / "config.pbtxt").write_text(f'backend: "python" max_batch_size: 0 {tensors}')
    command = next(container["args"] for _, container in containers() if container["name"] == "triton")
    image = stages()["triton"].last("CMD").words
    assert command[: len(image)] == image
    options = tuple(option for option in command[1:] if "model-repository" not in option)
    with TritonServer(tmp_path, arguments=options) as server:
        offered = set(re.findall(r"^# TYPE (\S+)", server.metrics(), re.MULTILINE))
    assert read <= offered

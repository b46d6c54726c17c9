"""Health, metrics and information."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """The value of one sample; 0 where it is not there yet."""
    text = (await client.get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


async def test_probes(client: httpx.AsyncClient) -> None:
    """The process is alive and everything it needs is ready."""
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    ready_parts = {check["name"] for check in ready.json()["checks"] if check["ready"]}
    assert ready_parts == {"detector", "embedder", "gallery", "journal"}


async def test_info(client: httpx.AsyncClient, services: Services) -> None:
    """Models with licences, the backend, and the limits that are in force."""
    info = (await client.get("/v1/info")).json()
    assert info["model"] == str(services.analyzer.model)
    assert (info["detector"]["name"], info["embedder"]["licence"]) == ("yunet", "Apache-2.0")
    assert info["limits"]["max_images"] == services.intake.limits.max_images
    assert info["backend"] == services.backend.description
    assert info["keys_required"] is False


async def test_metrics_count_what_happens(client: httpx.AsyncClient, biden: bytes) -> None:
    """Requests by route template, pictures, faces, inferences by network, and the gallery's size are counted."""
    requests = {"method": "POST", "route": "/v1/collections/{collection}/identities", "status": "201"}
    before = await metric(client, "face_server_http_requests_total", **requests)
    faces = await metric(client, "face_server_faces_total")
    inferences = await metric(client, "face_server_inference_duration_seconds_count", network="sface", stage="run")
    identities = await metric(client, "face_server_gallery_size", kind="identities")
    await client.post("/v1/extract", content=biden, headers={"content-type": "image/jpeg"})
    await client.post("/v1/collections/default/identities", json={"name": "Counted"})
    assert await metric(client, "face_server_http_requests_total", **requests) == before + 1
    assert await metric(client, "face_server_faces_total") == faces + 1
    assert await metric(client, "face_server_inference_duration_seconds_count", network="sface", stage="run") == inferences + 1
    assert await metric(client, "face_server_inference_batch_size_count", network="yunet") >= 1
    assert await metric(client, "face_server_gallery_size", kind="identities") == identities + 1
    assert await metric(client, "face_server_stage_duration_seconds_count", stage="read") >= 1


async def test_labels_do_not_grow_with_traffic(client: httpx.AsyncClient) -> None:
    """Unknown addresses, ids and methods of callers never become label values."""
    for path in ("/a", "/b", "/v1/collections/c1", "/v1/collections/c2"):
        await client.get(path)
    await client.request("BREW", "/v1/detect")
    text = (await client.get("/metrics")).text
    assert 'route="unmatched"' in text
    assert 'route="/v1/collections/{collection}"' in text
    assert "c1" not in text
    assert "BREW" not in text

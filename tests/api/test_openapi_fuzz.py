"""What the OpenAPI document says is what the service does, whatever is sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import hypothesis
import msgpack
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from face_server.api.application import create_api
from face_server.app import create_app
from face_server.settings import FetchSettings, Settings

T = TypeVar("T")

# Not among them: positive_data_acceptance. Random text is seldom base64 of a picture, and the
# schema cannot say so.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# The face server's API says 200 to everything and the rest in `code`.
ALWAYS_200 = "face_server_"
# InsightFace-REST takes "true", 1 and 0.0 for a boolean, and its clients rely on that.
LENIENT = "insightface_rest_"
# Cameras may be away: 503 is a proper answer then.
OF_CAMERAS = frozenset({"probe_stream", "stream_snapshot", "stream_preview"})
EXAMPLES = 12

DOCUMENT = create_api(nullcontext).openapi()  # type: ignore[arg-type]  # the document needs no services
OPERATIONS = sorted(
    (operation["operationId"], path, method) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
)


@schemathesis.serializer("application/msgpack", "application/x-msgpack")
def as_msgpack(_: Any, value: Any) -> dict[str, Any]:
    """Bodies in msgpack; what does not fit into it is sent as bytes that are none."""
    try:
        return {"data": msgpack.packb(value)}
    except (OverflowError, ValueError, TypeError):
        return {"data": b"\xc1"}


@schemathesis.serializer("image/*")
def as_picture(_: Any, value: Any) -> dict[str, Any]:
    """Raw bodies."""
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")}


class Server:
    """The application on an event loop in a thread of its own, for tests that are not async."""

    def __init__(self, data: Path) -> None:
        self._app = create_app(Settings(data=data, fetch=FetchSettings(timeout_s=0.5)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self.wait(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self._app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wait(self._client.aclose())
        self.wait(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def send(self, case: schemathesis.Case) -> httpx.Response:
        """Send a generated request as it would go over the wire."""
        kwargs = case.as_transport_kwargs(base_url="http://test")
        allowed = {"method", "url", "headers", "files", "data", "params", "auth", "cookies", "json"}
        prepared = requests.Request(**{name: value for name, value in kwargs.items() if name in allowed}).prepare()
        headers = [(name, value.encode("utf-8") if isinstance(value, str) else value) for name, value in prepared.headers.items()]
        body = prepared.body.encode("utf-8") if isinstance(prepared.body, str) else prepared.body or b""
        request = httpx.Request(prepared.method or "GET", prepared.url or "", headers=headers, content=body)
        return self.wait(self._client.send(request))

    def put(self, path: str, body: dict[str, Any]) -> None:
        """Make sure that something is there."""
        assert self.wait(self._client.put(path, json=body)).is_success

    def switch_off(self) -> None:
        """Remove every stream, so that none is watched for ever, and register one that is switched off."""
        for stream in self.wait(self._client.get("/v1/streams")).json()["streams"]:
            assert self.wait(self._client.delete(f"/v1/streams/{quote(stream['id'], safe='')}")).is_success
        self.put("/v1/streams/known", {"url": "rtsp://127.0.0.1:9/", "enabled": False, "collections": []})

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Post JSON."""
        return self.wait(self._client.post(path, json=body))


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    """A running server with a gallery of its own."""
    with Server(data) as server:
        yield server


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """The operations by their ids."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    found = [result.ok() for result in schema.get_all_operations()]
    return {str(operation.definition.raw["operationId"]): operation for operation in found}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("operation_id", [operation_id for operation_id, _, _ in OPERATIONS])
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_no_surprises(server: Server, operations: dict[str, Any], operation_id: str, mode: GenerationMode) -> None:
    """No request, valid or not, is answered with a 5xx or with what the document does not say."""
    operation = operations[operation_id]
    excused = {negative_data_rejection} if operation_id.startswith((ALWAYS_200, LENIENT)) else set()
    excused |= {not_a_server_error} if operation_id in OF_CAMERAS else set()
    checks = [check for check in CHECKS if check not in excused]
    known_ids = {"collection": "fuzz", "identity": "known", "stream_id": "known"}
    parameters = st.fixed_dictionaries({name: st.just(value) for name, value in known_ids.items()})

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=st.none() | parameters)
    def check(case: schemathesis.Case, known: dict[str, str] | None) -> None:
        server.put("/v1/collections/fuzz", {})
        server.put("/v1/collections/fuzz/identities/known", {"name": "Known"})
        if known is not None and mode is GenerationMode.POSITIVE:
            case.path_parameters |= {name: value for name, value in known.items() if name in case.path_parameters}
        answer = server.send(case)
        assert answer.status_code < 500 or operation_id not in OF_CAMERAS or answer.status_code == 503
        case.validate_response(answer, checks=checks)

    if "stream" in operation_id or "source" in operation_id:
        server.switch_off()
    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "a valid request must exist"

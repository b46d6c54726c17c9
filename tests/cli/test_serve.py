"""The server as a process: its start, its answers, its end."""

from __future__ import annotations

import base64
import signal
import socket
import time

import httpx
import pytest


def test_serve_tells_where_to_click_and_answers(server, shared):
    """The printed pages exist, the licences are named, and a posted picture gets its faces."""
    address = server.address
    for page in ("/", "/docs", "/redoc", "/metrics", "/openapi.json", "/healthz"):
        assert httpx.get(address + page).status_code == 200, page
    photo = base64.b64encode((shared / "data/photos/scenes/obama1.jpg").read_bytes()).decode()
    answer = httpx.post(f"{address}/extract", json={"images": {"data": [photo]}}).json()
    assert len(answer["data"][0]["faces"]) == 1
    assert f"{address}/docs" in server.welcome
    assert "yunet, MIT" in server.welcome
    assert "sface, Apache-2.0" in server.welcome


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_five_seconds_with_code_0(server, number):
    """An idle connection and one in the middle of a request do not hold it up; nothing is printed as an error."""
    process, address = server.process, server.address
    host, port = address.removeprefix("http://").split(":")
    with httpx.Client() as client, socket.create_connection((host, int(port))) as slow:
        client.get(f"{address}/healthz")
        slow.sendall(b"POST /extract HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        time.sleep(0.2)
        process.send_signal(number)
        _, logged = process.communicate(timeout=5)
    assert process.returncode == 0
    assert "Traceback" not in logged


def test_enrolling_beside_a_server_is_seen_by_it(server, data, face_server, shared, tmp_path):
    """A person enrolled by the command line is named by the server that holds the same folder."""
    address = server.address
    photo = shared / "data/photos/people/biden/biden.jpg"
    (tmp_path / "Joe.jpg").write_bytes(photo.read_bytes())
    body = {"images": [base64.b64encode(photo.read_bytes()).decode()]}
    before = httpx.post(f"{address}/v1/collections/default/identify", json=body).json()
    assert before["images"][0]["faces"][0]["match"] is None
    assert face_server("enroll", tmp_path, "--data", data).code == 0
    after = httpx.post(f"{address}/v1/collections/default/identify", json=body).json()
    assert after["images"][0]["faces"][0]["match"]["identity"]["name"] == "Joe"


def test_an_address_that_others_reach_needs_keys(data, face_server):
    """0.0.0.0 without an API key is refused with advice, before anything listens."""
    ended = face_server("serve", "--host", "0.0.0.0", "--port", "0", "--data", data)
    assert (ended.code, ended.out) == (2, "")
    assert "keys create" in ended.err
    assert "--allow-anonymous" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_taken_port_is_one_sentence(data, face_server):
    """The port is tried first, and named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = face_server("serve", "--port", port, "--data", data)
    assert ended.code == 2
    assert str(port) in ended.err
    assert len(ended.err.splitlines()) == 1


def test_missing_weights_are_one_sentence(tmp_path, face_server):
    """A data folder without model files says how to fetch them."""
    ended = face_server("serve", "--port", "0", "--data", tmp_path)
    assert ended.code == 2
    assert "face-server models pull" in ended.err
    assert len(ended.err.splitlines()) == 1

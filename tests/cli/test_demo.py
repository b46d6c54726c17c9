"""The demo as a user runs it: against a running server, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

DEAD = "rtsp://127.0.0.1:9/nothing"


@contextmanager
def running(line: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command in the background; ended with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints, up to the line that holds ``text``."""
    printed = ""
    for line in process.stdout or ():
        printed += line
        if text in line:
            return printed
    pytest.fail(f"{text!r} was never printed: {printed}")


def test_a_file_becomes_a_camera(server, face_server, shared):
    """Its addresses work, who is seen is printed as it happens, and Ctrl-C takes the stream away again."""
    video = shared / "data/videos/stage_360p.mp4"
    line = face_server.line("demo", video, "--server", server.address, "--port", "0")
    with running(line, face_server.environment()) as process:
        greeting = read_until(process, "Ctrl-C")
        assert "stage_360p.mp4 is a camera now" in greeting
        stream = httpx.get(re.search(r"status +(\S+)", greeting)[1]).json()
        assert (stream["id"], stream["name"]) == ("demo-stage_360p", "Demo: stage_360p")
        with httpx.stream("GET", re.search(r"watch +(\S+)", greeting)[1]) as preview:
            assert b"image/jpeg" in next(preview.iter_bytes())
        seen = read_until(process, "stranger seen").splitlines()[-1]
        assert re.fullmatch(r"\d\d:\d\d:\d\d  stranger seen     Stranger \d+ \(\d\.\d\d\)", seen)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
    assert process.returncode == 130
    assert complaints.strip() == ""
    assert httpx.get(f"{server.address}/v1/streams").json() == {"streams": []}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_otherwise_leaves_nothing_behind(server, face_server, shared, how):
    """`kill` and a closed terminal take the stream away too, without a word."""
    line = face_server.line("demo", shared / "data/videos/stage_360p.mp4", "--server", server.address, "--port", "0")
    with running(line, face_server.environment()) as process:
        read_until(process, "Ctrl-C")
        process.send_signal(how)
        _, complaints = process.communicate(timeout=10)
    assert process.returncode == 0
    assert complaints.strip() == ""
    assert httpx.get(f"{server.address}/v1/streams").json() == {"streams": []}


@pytest.mark.parametrize("kind", ["nobody", "somebody else", "no address", "no video", "taken port"])
def test_what_cannot_work_is_one_sentence(face_server, shared, tmp_path, kind):
    """No server, another server, an address that is none, a file that is no video, a port in use."""
    video, port = shared / "data/videos/stage_360p.mp4", "0"
    with another_server() as other, socket.create_server(("127.0.0.1", 0)) as taken:
        address = other
        if kind == "nobody":
            address, words = "http://127.0.0.1:9", "no server answers"
        elif kind == "somebody else":
            words = "is no face_server"
        elif kind == "no address":
            address, words = "http://127.0.0.1:port", "no URL"
        elif kind == "no video":
            video = tmp_path / "notes.txt"
            video.write_text("no video")
            words = "no video"
        else:
            port = words = str(taken.getsockname()[1])
        ended = face_server("demo", video, "--port", port, "--server", address)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    assert words in ended.err


@contextmanager
def another_server() -> Iterator[str]:
    """Somebody else's HTTP server."""
    line = ["python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            port = re.search(r"port (\d+)", process.stdout.readline())[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_whoever_listens_is_let_go_when_the_server_ends(server, face_server, shared):
    """Server-sent events, a WebSocket and a preview end properly and at once: the server is gone well within three seconds.

    A demo ends with it, and says why in a sentence.
    """
    address = server.address
    assert httpx.put(f"{address}/v1/streams/away", json={"url": DEAD}).status_code == 201

    async def listen() -> float:
        async with httpx.AsyncClient(base_url=address, timeout=10) as client:
            events = client.stream("GET", "/v1/events", headers={"accept": "text/event-stream"})
            preview = client.stream("GET", "/v1/streams/away/preview.mjpeg")
            async with events as told, preview as shown:
                pieces = [told.aiter_bytes(), shown.aiter_bytes()]
                for piece in pieces:
                    await anext(piece)
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                # A connection that is cut instead of ended raises here.
                for piece in pieces:
                    async for _ in piece:
                        pass
                return began

    line = face_server.line("demo", shared / "data/videos/stage_360p.mp4", "--server", address, "--port", "0")
    with running(line, face_server.environment()) as demo, connect(f"{address.replace('http', 'ws')}/v1/events") as listener:
        read_until(demo, "Ctrl-C")
        began = asyncio.run(listen())
        with suppress(ConnectionClosed):
            while listener.recv(timeout=5):
                pass
        assert listener.close_code in {1001, 1012}
        _, logged = server.process.communicate(timeout=5)
        assert time.monotonic() - began < 2.9
        _, complaints = demo.communicate(timeout=10)
    assert (server.process.returncode, demo.returncode) == (0, 2)
    assert "Traceback" not in logged
    assert "the server ended the connection" in complaints
    assert "Traceback" not in complaints


def test_media_folders_must_exist(data, face_server, tmp_path):
    """A folder that is not there is told before anything listens."""
    ended = face_server("serve", "--port", "0", "--data", data, "--media", tmp_path / "nowhere")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "--media" in ended.err


def test_what_a_server_for_others_lets_streams_be(server_with, face_server, shared):
    """`serve --media` opens folders, several ones too; what lies outside stays closed, and so do devices and this machine itself."""
    videos = shared / "data/videos"
    folders = ("--media", str(videos), "--media", str(shared / "models"))
    server = server_with("--host", "0.0.0.0", "--allow-anonymous", *folders)

    def probe(url: str) -> httpx.Response:
        return httpx.post(f"{server.address}/v1/streams/probe", json={"url": url})

    assert probe(str(videos / "stage_360p.mp4")).json()["width"] == 640
    for url in (str(shared / "data" / "README.md"), str(videos / ".." / "README.md"), "/dev/video0", "http://127.0.0.1:1/"):
        assert (probe(url).status_code, probe(url).json()["field"]) == (422, "url"), url
    ended = face_server("demo", videos / "stage_360p.mp4", "--port", "0", "--server", server.address)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "while the service listens on loopback" in ended.err

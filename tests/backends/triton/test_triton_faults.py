"""Servers that die, freeze, come back, and come back as something else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.triton_server import TritonServer, missing
from face_server.backends.triton.backend import TritonBackend
from face_server.backends.triton.options import SharedMemory
from face_server.domain.network import Network, TensorSpec
from face_server.errors import Unavailable, WeightsError

Server = tuple[TritonServer, list[Network]]


@contextlib.contextmanager
def bruised(folder: Path) -> Iterator[TritonServer]:
    """A server that tests of this file kill, freeze and start again."""
    if reason := missing():
        pytest.skip(reason)
    with TritonServer(folder, models=["sum", "slow"]) as server:
        yield server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, make_repository) -> Iterator[list[Server]]:
    """Two servers with the same two models."""
    repository = make_repository(tmp_path_factory.mktemp("bruised"))
    networks = [repository.add("sum"), repository.add("slow")]
    with bruised(repository.folder) as one, bruised(repository.folder) as two:
        yield [(one, networks), (two, networks)]


@pytest.fixture
def pair(servers: list[Server]) -> list[Server]:
    """Both servers, well again after what the last test did to them."""
    for server, _ in servers:
        if server._process is None:
            server.start()
        server.thaw()
    return servers


@pytest.fixture
def lone(pair: list[Server]) -> Server:
    """One of them."""
    return pair[0]


async def attempt(client, inputs, model: str = "sum") -> str:
    """What becomes of a call: "answered", or why not."""
    try:
        await client.call(model, inputs, ["sums"])
    except Unavailable as error:
        return error.message if 0 < error.retry_after_s <= 10 else f"come back after {error.retry_after_s} s"
    return "answered"


async def recovered(client, inputs, model: str = "sum", seconds: float = 8.0) -> None:
    """Wait until calls are answered again."""
    async with asyncio.timeout(seconds):
        while await attempt(client, inputs, model) != "answered":  # noqa: ASYNC110 - what changes is in another process
            await asyncio.sleep(0.05)


def kill_processes(server: TritonServer, model: str) -> None:
    """Kill the processes of a model, not the server."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program, *arguments = (process / "cmdline").read_text().split("\0")
            if "python_backend_stub" in program and f"/{model}/" in arguments[0] and os.getpgid(int(process.name)) == server.pid:
                os.kill(int(process.name), signal.SIGKILL)


def successes(server: TritonServer) -> int:
    """How many calls of ``sum`` that server has answered."""
    (line,) = (line for line in server.metrics().splitlines() if line.startswith('nv_inference_request_success{model="sum"'))
    return int(float(line.rsplit(" ", 1)[1]))


async def test_killed_and_started_again(lone, open_client, rows, caplog: pytest.LogCaptureFixture) -> None:
    """A call under way ends with a clear error, later ones at once; after a restart they are answered, by shared memory again."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, shared_memory=SharedMemory.SYSTEM)
    large = rows(1, width=100_000)
    await client.call("slow", large, ["sums"])
    calls = [asyncio.create_task(attempt(client, rows(200, width=100_000), "slow")) for _ in range(4)]
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.kill)
    started = time.monotonic()
    for said in await asyncio.gather(*calls):
        assert said.startswith(f"Triton at {server.url}")
    assert time.monotonic() - started < 2.0
    started = time.monotonic()
    for _ in range(20):
        assert "is away: " in await attempt(client, large, "slow")
    assert time.monotonic() - started < 0.5, "an open circuit answers at once"
    assert not await TritonBackend(client, networks).ready("slow")
    await asyncio.to_thread(server.start)
    await recovered(client, large, "slow")
    assert client._pool.leased == 0
    assert client.description.endswith("(system shared memory)")
    assert caplog.text.count("is away") == 1


async def test_away_at_start(lone, open_client, rows, caplog: pytest.LogCaptureFixture) -> None:
    """A server that is not there yet is no error: one warning, 503s that say when to come back, then answers."""
    server, networks = lone
    await asyncio.to_thread(server.kill)
    started = time.monotonic()
    client = await open_client(server.url, networks=networks)
    assert time.monotonic() - started < 2.0
    assert "is away" in await attempt(client, rows(1))
    assert client.description == f"triton at {server.url} (away)"
    await asyncio.to_thread(server.start)
    await recovered(client, rows(1))
    assert caplog.text.count("is away") == 1
    assert client.description.startswith("triton 2.51.0 at")


async def test_restart_between_calls_is_not_noticed(lone, open_client, rows) -> None:
    """When nothing was asked while the server was started anew, the next call is answered: contracts are compared first."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, probe_interval_s=60.0)
    await client.call("sum", rows(1), ["sums"])
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await attempt(client, rows(1)) == "answered"


async def test_frozen_and_thawed(lone, open_client, rows) -> None:
    """Calls to a server that stands still end long before their time, later ones at once; after the thaw they are answered."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, timeout_s=20.0, connect_timeout_s=0.5)
    await client.call("sum", rows(1), ["sums"])
    server.freeze()
    started = time.monotonic()
    said = await asyncio.gather(*(attempt(client, rows(1)) for _ in range(5)))
    assert time.monotonic() - started < 5.0
    assert all("is away: it does not answer" in one for one in said)
    started = time.monotonic()
    assert "is away" in await attempt(client, rows(1))
    assert time.monotonic() - started < 0.3
    server.thaw()
    await recovered(client, rows(1))
    assert client.ready("sum")


async def test_frozen_ends_by_the_deadline(lone, open_client, rows) -> None:
    """Before a probe could tell, the deadline ends a call to a frozen server."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, timeout_s=0.5, probe_interval_s=60.0)
    server.freeze()
    started = time.monotonic()
    assert "did not answer within 0.5 s" in await attempt(client, rows(1))
    assert time.monotonic() - started < 1.5
    server.thaw()
    await recovered(client, rows(1))


async def test_model_unloaded_and_loaded(lone, open_client, rows, caplog: pytest.LogCaptureFixture) -> None:
    """Without its model a server is not taken for broken: calls name the model, others are answered; loaded again it is used."""
    server, networks = lone
    client = await open_client(server.url, networks=networks)
    await asyncio.to_thread(server.unload, "sum")
    for _ in range(5):
        assert await attempt(client, rows(1)) == f"model 'sum' is not loaded by Triton at {server.url}"
        assert await attempt(client, rows(1), "slow") == "answered"
    assert not client.ready("sum")
    assert client.ready("slow")
    await asyncio.to_thread(server.load, "sum")
    await recovered(client, rows(1))
    assert "is away" not in caplog.text


WRONG = {
    "digest": ({"digest": "cd" * 32}, f"other weights: their sha256 must be {'ab' * 32}, is {'cd' * 32}"),
    "shape": ({"outputs": (TensorSpec("sums", "float32", (2,)),)}, r"output 'sums' .* must be float32 \(N, 1\), is float32 \(N, 2\)"),
    "dtype": ({"inputs": (TensorSpec("rows", "float32", (None,)),)}, r"input 'rows' .* must be uint8 \(N, \?\), is float32 \(N, \?\)"),
    "name": ({"inputs": (TensorSpec("columns", "uint8", (None,)),)}, "has no input 'rows'.* it has columns"),
}


async def test_wrong_at_start(repository, serve, open_client) -> None:
    """A model that is not what it should be ends the start, in a sentence with both sides."""
    expected = [repository.add(what, "", digest="ab" * 32) for what in WRONG]
    for what, (change, _) in WRONG.items():
        repository.add(what, "", **{"digest": "ab" * 32, **change})
    server = serve(repository, *WRONG)
    before = asyncio.all_tasks()
    for network, (_, sentence) in zip(expected, WRONG.values(), strict=True):
        with pytest.raises(WeightsError, match=sentence) as caught:
            await open_client(server.url, networks=[network])
        assert f"model '{network.name}' on Triton at {server.url}" in caught.value.message
    assert asyncio.all_tasks() == before


async def test_wrong_after_a_restart(repository, serve, open_client, rows, caplog: pytest.LogCaptureFixture) -> None:
    """A server that comes back with another version is not used, says why in every error, is logged once; put right it is used."""
    network = repository.add("sum", digest="ab" * 32)
    server = serve(repository, "sum")
    # No probe comes in between: the call itself must notice that the connection is another one.
    client = await open_client(server.url, networks=[network], probe_interval_s=60.0)
    await client.call("sum", rows(1), ["sums"])
    await asyncio.to_thread(server.kill)
    repository.add("sum", digest="cd" * 32)
    await asyncio.to_thread(server.start)
    said = ""
    async with asyncio.timeout(8):
        while "runs other weights" not in said:
            said = await attempt(client, rows(1))
            assert said != "answered"
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)
    assert caplog.text.count("runs other weights") == 1
    repository.add("sum", digest="ab" * 32)
    await asyncio.to_thread(server.load, "sum")
    await recovered(client, rows(1))


async def test_one_of_two_killed_under_load(pair, open_client, rows, until, caplog: pytest.LogCaptureFixture) -> None:
    """While 200 calls run on two servers one is killed: no call fails, and both had work before."""
    caplog.set_level(logging.INFO)
    (one, networks), (two, _) = pair
    client = await open_client(one.url, two.url, networks=networks, max_concurrent=16, timeout_s=30.0)
    calls = [asyncio.create_task(client.call("slow", rows(2, number % 200), ["sums"])) for number in range(200)]
    await asyncio.sleep(0.5)
    share = [endpoint.in_flight for endpoint in client._endpoints]
    await asyncio.to_thread(one.kill)
    answers = await asyncio.gather(*calls)
    assert [answer["sums"].item() for answer in answers] == [2 + number % 200 for number in range(200)]
    assert sorted(share) == [8, 8]
    assert client.ready("slow")
    await asyncio.to_thread(one.start)
    await until(lambda: client._endpoints[0].standing == "usable", 8.0)
    assert f"Triton at {one.url} is back" in caplog.text


async def test_calls_one_after_the_other_are_spread(pair, open_client, rows) -> None:
    """Callers who never overlap use all servers too."""
    networks = pair[0][1]
    client = await open_client(*(server.url for server, _ in pair), networks=networks)
    backend = TritonBackend(client, networks)
    before = [successes(server) for server, _ in pair]
    for _ in range(6):
        await backend.infer("sum", rows(1))
    assert [successes(server) - count for (server, _), count in zip(pair, before, strict=True)] == [3, 3]


async def test_one_of_two_has_dead_processes(pair, open_client, rows) -> None:
    """Triton calls a model ready whose process was killed: its calls are given to the other server, and soon go there at once."""
    (hurt, networks), (well, _) = pair
    client = await open_client(hurt.url, well.url, networks=networks, pause_s=5.0)
    kill_processes(hurt, "sum")
    for _ in range(8):
        assert await attempt(client, rows(1)) == "answered"
    started = time.monotonic()
    for _ in range(10):
        assert await attempt(client, rows(1)) == "answered"
    assert time.monotonic() - started < 0.5, "a dead process costs a second"
    hurt.kill()


async def test_dead_processes_until_the_model_is_loaded_again(lone, open_client, rows, caplog: pytest.LogCaptureFixture) -> None:
    """With nothing else to ask, calls say what has died, soon at once and unready; loaded again the model is used by itself."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, pause_s=3.0)
    kill_processes(server, "sum")
    said = [await attempt(client, rows(1)) for _ in range(2)]
    started = time.monotonic()
    said += [await attempt(client, rows(1)) for _ in range(5)]
    assert time.monotonic() - started < 0.5
    assert set(said) == {f"a process of model 'sum', or of one that it calls, has died on Triton at {server.url}: load that model again"}
    assert not client.ready("sum")
    assert client.ready("slow")
    assert await attempt(client, rows(1), "slow") == "answered"
    assert caplog.text.count("has died") == 1
    await asyncio.to_thread(server.unload, "sum")
    await asyncio.to_thread(server.load, "sum")
    await recovered(client, rows(1))
    assert client.ready("sum")


async def test_closing_does_not_wait_for_a_frozen_server(lone, open_client, rows) -> None:
    """A server that stands still is not asked to forget region after region."""
    server, networks = lone
    client = await open_client(server.url, networks=networks, shared_memory=SharedMemory.SYSTEM, probe_interval_s=60.0)
    await asyncio.gather(*(attempt(client, rows(1, count=4, width=5_000_000)) for _ in range(4)))
    server.freeze()
    started = time.monotonic()
    await client.close()
    assert time.monotonic() - started < 2.0
    server.thaw()


async def test_one_of_two_frozen_under_load(pair, open_client, rows) -> None:
    """Calls that wait for a frozen server are given to the other one."""
    (one, networks), (two, _) = pair
    client = await open_client(one.url, two.url, networks=networks, max_concurrent=16, timeout_s=30.0, connect_timeout_s=0.5)
    one.freeze()
    started = time.monotonic()
    await asyncio.gather(*(client.call("slow", rows(1), ["sums"]) for _ in range(60)))
    assert time.monotonic() - started < 10.0
    one.thaw()


async def test_stopping_politely(pair, open_client, rows) -> None:
    """SIGTERM lets calls under way end well or hands them to the other server; none fails."""
    (one, networks), (two, _) = pair
    client = await open_client(one.url, two.url, networks=networks, max_concurrent=8, timeout_s=30.0)
    calls = [asyncio.create_task(client.call("slow", rows(10), ["sums"])) for _ in range(40)]
    await asyncio.sleep(0.3)
    stopping = asyncio.create_task(asyncio.to_thread(one.stop))
    assert all(answer["sums"].item() == 10 for answer in await asyncio.gather(*calls))
    await stopping


async def test_all_away_says_so_for_each(repository, serve, open_client, rows) -> None:
    """With every server away a call names each of them, at once."""
    client = await open_client("127.0.0.1:9", "127.0.0.1:11", networks=[repository.add("sum")])
    said = await attempt(client, rows(1))
    assert "Triton at 127.0.0.1:9 is away" in said
    assert "Triton at 127.0.0.1:11 is away" in said

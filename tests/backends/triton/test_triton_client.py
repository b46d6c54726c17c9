"""Calls to a real tritonserver that nobody harms."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
import trustme
from blockbuster import blockbuster_ctx
from cryptography.hazmat.primitives import serialization

from face_server.backends.triton.backend import TritonBackend
from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.errors import ConfigurationError, InputTooLarge, InvalidImage, InvalidInput, NotFound, Overloaded, Unavailable
from face_server.workers import Workers


async def test_answers_by_name(shop, open_client, rows) -> None:
    """The outputs that were named come back; the description says where from."""
    client = await open_client(shop.url, networks=shop.networks("sum"))
    answer = await client.call("sum", rows(1, 2, 3), ["sums"])
    assert answer["sums"].tolist() == [[6.0]]
    assert answer["sums"].dtype == np.float32
    assert client.description == f"triton 2.51.0 at {shop.url} (system shared memory)"


async def test_batches_are_split(shop, open_client, rows) -> None:
    """Eleven rows reach a model that takes four at a time in three calls, and come back in order."""
    client = await open_client(shop.url, networks=shop.networks("sum"))
    sent = np.arange(22, dtype=np.uint8).reshape(11, 2)
    answer = await TritonBackend(client, shop.networks("sum")).infer("sum", {"rows": sent})
    assert answer["sums"].ravel().tolist() == sent.sum(1).tolist()
    assert await client.batch_limit("sum") == 4
    with pytest.raises(InvalidInput, match="batch-size must be <= 4"):
        await client.call("sum", {"rows": sent}, ["sums"])


async def test_unknown_models(shop, open_client, rows) -> None:
    """A model that nobody promised is NotFound; one this service needs, but the server lacks, is Unavailable by name."""
    absent = shop.networks("sum")[0]
    networks = [type(absent)("yunet", absent.path, absent.inputs, absent.outputs)]
    client = await open_client(shop.url, networks=networks)
    with pytest.raises(NotFound, match=f"no model 'nobody' on Triton at {shop.url}"):
        await client.call("nobody", rows(1), ["sums"])
    with pytest.raises(Unavailable, match=f"model 'yunet' is not loaded by Triton at {shop.url}"):
        await client.call("yunet", rows(1), ["sums"])
    assert not client.ready("yunet")


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "sentence"),
    [
        ("sum", {"rows": np.zeros((1, 3), np.float32)}, ["sums"], "data-type is 'FP32', but model 'sum' expects 'UINT8'"),
        ("sum", {"rows": np.zeros((1, 3, 3), np.uint8)}, ["sums"], r"unexpected shape .* got \[1,3,3\]"),
        ("sum", {"columns": np.zeros((1, 3), np.uint8)}, ["sums"], "unexpected inference input 'columns'"),
        ("sum", {"rows": np.zeros((1, 3), np.uint8)}, ["products"], "unexpected inference output 'products'"),
    ],
)
async def test_wrong_tensors(shop, open_client, model: str, inputs: dict, outputs: list[str], sentence: str) -> None:
    """What a model cannot take is InvalidInput with the server's reason, without gRPC's jargon."""
    client = await open_client(shop.url)
    with pytest.raises(InvalidInput, match=sentence) as caught:
        await client.call(model, inputs, outputs)
    assert f"model 'sum' on Triton at {shop.url} refuses the request" in caught.value.message
    assert "request id" not in caught.value.message


async def test_failing_model(shop, open_client, rows) -> None:
    """A model that raises makes its call Unavailable with the first line of its reason; the server stays in use."""
    client = await open_client(shop.url)
    for _ in range(4):
        with pytest.raises(Unavailable, match=r"model 'failing' on Triton at .* failed: .*boom") as caught:
            await client.call("failing", rows(1), ["sums"])
        assert "\n" not in caught.value.message
    assert (await client.call("sum", rows(1), ["sums"]))["sums"].tolist() == [[1.0]]


async def test_refusals_of_pictures(repository, serve, open_client, rows) -> None:
    """What face_pipeline says about a picture arrives as the error it is, with code, field and message."""
    text = json.dumps({"code": "invalid_image", "field": "image", "message": "the picture is cut off"})
    repository.add("refusing", f"return self.refuse({text!r}, pb_utils.TritonError.INVALID_ARG)")
    large = json.dumps({"code": "input_too_large", "field": None, "message": "it has too many pixels"})
    repository.add("large", f"return self.refuse({large!r}, pb_utils.TritonError.INVALID_ARG)")
    client = await open_client(serve(repository, "refusing", "large").url)
    with pytest.raises(InvalidImage, match=r"^the picture is cut off$") as caught:
        await client.call("refusing", rows(1), ["sums"])
    assert caught.value.field == "image"
    with pytest.raises(InputTooLarge, match=r"^it has too many pixels$"):
        await client.call("large", rows(1), ["sums"])


async def test_full_queue(repository, serve, open_client, rows) -> None:
    """A server whose queue is full makes a call Overloaded; it is not taken for broken."""
    queue = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    client = await open_client(serve(repository_with_queue(repository, queue), "slow").url)
    calls = [client.call("slow", rows(30, count=4), ["sums"]) for _ in range(6)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert 1 <= len(refused) < len(answers)
    assert all(isinstance(error, Overloaded) and "the queue of model 'slow'" in error.message for error in refused)
    await client.call("slow", rows(1), ["sums"])


def repository_with_queue(repository, queue: str):
    """A slow model behind a short queue."""
    repository.add("slow", extra=queue)
    return repository


async def test_bounded_concurrency(shop, open_client, rows) -> None:
    """Two calls run, three wait, the sixth is Overloaded at once and told when to come back."""
    client = await open_client(shop.url, max_concurrent=2, max_waiting=3)
    calls = [asyncio.create_task(client.call("slow", rows(20), ["sums"])) for _ in range(5)]
    await asyncio.sleep(0.05)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="3 calls wait for Triton already") as caught:
        await client.call("slow", rows(20), ["sums"])
    assert time.monotonic() - started < 0.1
    assert 0.1 <= caught.value.retry_after_s <= 30
    assert [answer["sums"].tolist() for answer in await asyncio.gather(*calls)] == [[[20.0]]] * 5


async def test_waiting_ends_with_the_time_of_the_call(shop, open_client, rows) -> None:
    """A call that gets no turn within its time is Overloaded: nothing was asked of the server."""
    client = await open_client(shop.url, max_concurrent=1, timeout_s=0.4)
    first = asyncio.create_task(client.call("slow", rows(35), ["sums"]))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(2):
        blocked = [client.call("slow", rows(35), ["sums"]) for _ in range(3)]
        answers = await asyncio.gather(*blocked, return_exceptions=True)
    assert any(isinstance(answer, Overloaded) and "waited its whole time" in answer.message for answer in answers)
    await first


async def test_deadline(shop, open_client, rows) -> None:
    """A call that takes too long is Unavailable when its time is over."""
    client = await open_client(shop.url, timeout_s=0.3)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"model 'slow' on Triton at .* did not answer within 0\.3"):
        await client.call("slow", rows(100), ["sums"])
    assert time.monotonic() - started < 1.5


async def test_cancelling_reaches_the_server(shop, open_client, rows, until) -> None:
    """The model learns that nobody waits any more, while it runs; what has not started never starts."""
    client = await open_client(shop.url)
    running = asyncio.create_task(client.call("patient", rows(1), ["sums"]))
    await until(lambda: shop.repository.seen("patient"))
    waiting = asyncio.create_task(client.call("patient", rows(2), ["sums"]))
    await asyncio.sleep(0.2)
    waiting.cancel()
    await asyncio.sleep(0.1)
    running.cancel()
    answers = await asyncio.gather(running, waiting, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    await until(lambda: "1 True" in shop.repository.seen("patient"))
    await asyncio.sleep(0.2)
    assert "2 False" not in shop.repository.seen("patient")


async def test_headers_go_with_every_call(shop, open_client, rows) -> None:
    """The server sees the headers; no log, error or description shows their values."""
    client = await open_client(shop.url, headers={"Authorization": "Bearer 7f3a", "x-team": "doors"})
    await client.call("headers", rows(1), ["sums"])
    seen = json.loads(shop.repository.seen("headers"))
    assert seen["authorization"] == "Bearer 7f3a"
    assert seen["x-team"] == "doors"
    assert "7f3a" not in client.description + repr(TritonOptions((shop.url,), headers={"authorization": "Bearer 7f3a"}))


@pytest.mark.parametrize("header", [("x-ü", "1"), ("grpc-timeout", "1"), ("x-bin", "1"), ("x", "two\nlines"), ("x", "")])
def test_headers_that_cannot_be_sent(header: tuple[str, str]) -> None:
    """GRPC would refuse them at every call; they are refused at start, without their value."""
    with pytest.raises(ConfigurationError, match="cannot be sent") as caught:
        TritonOptions(headers=dict([header]))
    assert "lines" not in caught.value.message


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"endpoints": ()}, "at least one endpoint"),
        ({"endpoints": ("triton",)}, "write host:port"),
        ({"endpoints": ("http://triton:1",)}, "write host:port"),
        ({"endpoints": ("[::1:1",)}, "write host:port"),
        ({"endpoints": ("joe:7f3a@triton:1",)}, "^(?!.*7f3a).*holds credentials"),
        ({"endpoints": ("a:1", "a:1")}, "named twice"),
        ({"timeout_s": 0}, "above 0"),
        ({"max_concurrent": 0}, "at least one call"),
        ({"ca_file": Path("ca.pem")}, "mean nothing without tls"),
        ({"tls": True, "key_file": Path("key.pem")}, "certificate and key together"),
    ],
)
def test_options_that_cannot_work(options: dict, sentence: str) -> None:
    """Settings that contradict themselves are refused with a sentence."""
    with pytest.raises(ConfigurationError, match=sentence):
        TritonOptions(**options)


async def test_tls(repository, serve, open_client, rows, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With mutual TLS the right certificates get answers; a client without, or one that trusts others, finds the server away."""
    authority, stranger = trustme.CA(), trustme.CA()
    files = {}
    for name, maker in (("server", authority), ("client", authority)):
        certificate = maker.issue_cert("127.0.0.1", "localhost")
        files[name], files[f"{name}_key"] = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        files[name].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        files[f"{name}_key"].write_bytes(certificate.private_key_pem.bytes())
    for name, maker in (("ca", authority), ("other", stranger)):
        files[name] = tmp_path / f"{name}.pem"
        maker.cert_pem.write_to_path(str(files[name]))
    arguments = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={files['server']}",
        f"--grpc-server-key={files['server_key']}",
        f"--grpc-root-cert={files['ca']}",
    )
    repository.add("sum")
    server = serve(repository, "sum", arguments=arguments)
    identity = {"certificate_file": files["client"], "key_file": files["client_key"]}
    client = await open_client(server.url, tls=True, ca_file=files["ca"], **identity)
    assert (await client.call("sum", rows(1, 2), ["sums"]))["sums"].tolist() == [[3.0]]
    for wrong in ({}, {"tls": True, "ca_file": files["other"], **identity}, {"tls": True, "ca_file": files["ca"]}):
        client = await open_client(server.url, **wrong)
        with pytest.raises(Unavailable, match="is away"):
            await client.call("sum", rows(1), ["sums"])
    assert "is away" in caplog.text


async def test_certificate_files_that_cannot_be_used(open_client, tmp_path: Path) -> None:
    """A missing file, and one that holds no certificate, end the start with the name of the file."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for file in (tmp_path / "absent.pem", garbage):
        with pytest.raises(ConfigurationError, match=file.name):
            await open_client("127.0.0.1:1", tls=True, ca_file=file)


async def test_keys_with_a_password(open_client, tmp_path: Path) -> None:
    """Nobody is there to type the password of a key: it ends the start, too."""
    certificate = trustme.CA().issue_cert("triton")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"7f3a"))
    (tmp_path / "locked.key").write_bytes(key.private_bytes(*form))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    with pytest.raises(ConfigurationError, match=r"locked\.key"):
        await open_client("127.0.0.1:1", tls=True, certificate_file=tmp_path / "client.pem", key_file=tmp_path / "locked.key")


async def test_little_time_left_does_not_speak_against_the_server(shop, open_client, rows) -> None:
    """Calls that had to wait here until a moment before their deadline fail; the circuit to the healthy server stays closed."""
    client = await open_client(shop.url, networks=shop.networks("slow"), max_concurrent=1, timeout_s=1.0, failures_to_open=1)
    first = asyncio.create_task(client.call("slow", rows(80), ["sums"]))
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable, match="did not answer within 0"):
        await client.call("slow", rows(80), ["sums"])
    assert (await first)["sums"].tolist() == [[80.0]]
    assert client.ready("slow")


async def test_message_bound(shop, open_client, rows) -> None:
    """Tensors above the bound of a message are refused before they are sent."""
    client = await open_client(shop.url, max_message_bytes=10_000, shared_memory=SharedMemory.OFF)
    with pytest.raises(InputTooLarge, match="20000 bytes, at most 10000"):
        await client.call("sum", rows(1, width=20_000), ["sums"])


@pytest.mark.parametrize("memory", [SharedMemory.OFF, SharedMemory.SYSTEM])
async def test_nothing_blocks_the_loop(shop, open_client, rows, memory: SharedMemory) -> None:
    """Opening, calls with 6 MB and closing make no blocking system call on the event loop, and no long pause."""
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    async def beat() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            pauses.append(loop.time() - before)

    with blockbuster_ctx():
        heart = asyncio.create_task(beat())
        client = await open_client(shop.url, networks=shop.networks("sum"), shared_memory=memory)
        sent = rows(7, width=6_000_000)
        answers = await asyncio.gather(*(client.call("sum", sent, ["sums"]) for _ in range(6)))
        await client.close()
        heart.cancel()
    assert all(answer["sums"].tolist() == [[7.0]] for answer in answers)
    assert float(np.median(pauses)) < 0.02


async def test_closing_ends_what_runs_and_waits(shop, open_client, rows, workers: Workers) -> None:
    """Running and waiting calls become Unavailable, later ones too; no task stays."""
    before = asyncio.all_tasks()
    client = await open_client(shop.url, networks=shop.networks("slow"), max_concurrent=2)
    calls = [asyncio.create_task(client.call("slow", rows(100), ["sums"])) for _ in range(5)]
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await client.close()
    await client.close()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < 0.9
    assert all(isinstance(answer, Unavailable) and "closed" in answer.message for answer in answers)
    with pytest.raises(Unavailable, match="closed"):
        await client.call("sum", rows(1), ["sums"])
    assert not client.ready("slow")
    assert asyncio.all_tasks() == before


async def test_cuda_needs_its_package(open_client) -> None:
    """Where CUDA's Python package is missing, asking for its shared memory is a clear error at start."""
    try:
        __import__("cuda.bindings.runtime")
    except ModuleNotFoundError:
        with pytest.raises(ConfigurationError, match="needs the package cuda-python"):
            await open_client("127.0.0.1:1", shared_memory=SharedMemory.CUDA)
    else:
        pytest.skip("CUDA's Python package is installed")

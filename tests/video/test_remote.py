"""Fetching from addresses that callers name, against a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from face_server.errors import InputTooLarge, InvalidInput, Overloaded
from face_server.video.remote import Fetcher, FetchOptions

from .local_http import LocalServer, local_server, reply

TRUSTING = FetchOptions(allowed_hosts=("pictures.example",), connect_timeout_s=2, read_timeout_s=2, total_timeout_s=5)


class Names:
    """A name server of fixed answers that counts its questions."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        """The fixed addresses of ``host``."""
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        return self.answers[host]


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    """A server on loopback."""
    async with local_server() as local:
        yield local


@asynccontextmanager
async def fetching(options: FetchOptions = TRUSTING, names: Mapping[str, Sequence[str]] | None = None) -> AsyncIterator[Fetcher]:
    """A fetcher for which pictures.example is the local server."""
    fetcher = Fetcher(options, Names({"pictures.example": ["127.0.0.1"], "other.example": ["127.0.0.1"], **(names or {})}))
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def test_body_of_a_trusted_host(server: LocalServer) -> None:
    """The body comes back as it was sent, and the request names the host, not the address."""
    server.answers["/a.jpg"] = reply(b"picture")
    async with fetching() as fetcher:
        assert await fetcher.fetch(server.url("/a.jpg?size=1#part")) == b"picture"
    assert server.requests[0].startswith("GET /a.jpg?size=1 HTTP/1.1\r\n")
    assert server.header("host") == f"pictures.example:{server.port}"
    assert server.header("accept-encoding") == "identity"
    assert str(server.header("user-agent")).startswith("face_server/")


async def test_connects_to_the_checked_address(server: LocalServer) -> None:
    """The name is resolved once a fetch and the connection goes to that answer: a second answer gains nothing."""
    server.answers["/"] = reply(b"picture")
    names = Names({"pictures.example": ["127.0.0.1"]})
    fetcher = Fetcher(TRUSTING, names)
    try:
        assert await fetcher.fetch(server.url("/")) == b"picture"
    finally:
        await fetcher.close()
    assert names.asked == ["pictures.example"]


async def test_next_address_when_the_first_is_dead(server: LocalServer) -> None:
    """A host with several addresses is reached by the next one when the first refuses the connection."""
    server.answers["/"] = reply(b"picture")
    async with fetching(names={"pictures.example": ["127.0.0.2", "127.0.0.1"]}) as fetcher:
        assert await fetcher.fetch(server.url("/")) == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://localhost.:{port}/secret",
        "http://LOCALHOST:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://0x7f.1:{port}/secret",
        "http://0x7f000001:{port}/secret",
        "http://127.1:{port}/secret",
        "http://0:{port}/secret",
        "http://0.0.0.0:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://[::ffff:7f00:1]:{port}/secret",
        "http://[64:ff9b::7f00:1]:{port}/secret",
        "http://[fe80::1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/latest/meta-data",
        "http://10.0.0.1/secret",
        "http://100.64.0.1/secret",
    ],
)
async def test_own_network_is_refused_in_every_spelling(server: LocalServer, url: str) -> None:
    """Loopback, metadata and private addresses are refused however they are spelt, with the system's resolver."""
    server.answers["/secret"] = reply(b"secret")
    fetcher = Fetcher(replace(TRUSTING, allowed_hosts=()))
    try:
        with pytest.raises(InvalidInput, match="public address") as refusal:
            await fetcher.fetch(url.format(port=server.port))
    finally:
        await fetcher.close()
    assert (refusal.value.code, refusal.value.field) == ("url_forbidden", "url")
    assert server.requests == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["2606:4700::1", "::1"], ["10.0.0.8"]])
async def test_names_that_lead_inside_are_refused(server: LocalServer, addresses: list[str]) -> None:
    """One denied address among public ones is enough, and the message does not tell which address it is."""
    async with fetching(names={"rebind.example": addresses}) as fetcher:
        with pytest.raises(InvalidInput) as refusal:
            await fetcher.fetch(server.url("/", host="rebind.example"))
    assert refusal.value.code == "url_forbidden"
    assert not any(address in refusal.value.message for address in addresses)
    assert server.requests == []


async def test_trusted_network(server: LocalServer) -> None:
    """An allowed network opens names that lead there and its literal addresses."""
    server.answers["/"] = reply(b"picture")
    async with fetching(replace(TRUSTING, allowed_hosts=("127.0.0.0/8",))) as fetcher:
        assert await fetcher.fetch(server.url("/", host="other.example")) == b"picture"
        assert await fetcher.fetch(server.url("/", host="127.0.0.1")) == b"picture"
        with pytest.raises(InvalidInput):
            await fetcher.fetch(server.url("/", host="[::1]"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("file:///etc/passwd", "must start with"),
        ("ftp://pictures.example/a", "must start with"),
        ("gopher://pictures.example/a", "must start with"),
        ("data:image/png;base64,AAAA", "must start with"),
        ("/etc/passwd", "must start with"),
        ("pictures.example/a.jpg", "must start with"),
        ("", "must start with"),
        ("http://", "host"),
        ("http:///a.jpg", "host"),
        ("http://user:hunter2@pictures.example/", "user name or password"),
        ("http://user@pictures.example/", "user name or password"),
        ("http://127.0.0.1\\@pictures.example/", "user name or password"),
        ("http://pictures.example:99999/", "port"),
        ("http://pictures.example:0/", "port"),
        ("http://pictures.example:abc/", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://pictures.example/\nsecret", "malformed"),
        ("http://0177.0.0.1/", "malformed"),
        ("http://１２７.０.０.１/", "malformed"),
        ("http://ⓛocalhost/", "malformed"),
        ("http://pictures.example/" + "a" * 9000, "longer than 8192"),
        ("http://" + "a" * 300 + "/", "253"),
    ],
)
async def test_urls_that_are_none(url: str, sentence: str) -> None:
    """Other schemes, local paths, credentials and malformed URLs are refused without being repeated."""
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput, match=sentence) as refusal:
            await fetcher.fetch(url)
    assert refusal.value.field == "url"
    assert "hunter2" not in refusal.value.message


@pytest.mark.parametrize("host", ["missing.example", "a..b", "x" * 64 + ".example", "a%20b"])
async def test_names_that_do_not_resolve(host: str) -> None:
    """A name without an address is the URL's fault; the test server of names and the system's agree."""
    for fetcher in (Fetcher(TRUSTING, Names({})), Fetcher(replace(TRUSTING, total_timeout_s=15))):
        try:
            with pytest.raises(InvalidInput) as failure:
                await fetcher.fetch(f"http://{host}.invalid/")
        finally:
            await fetcher.close()
        assert failure.value.code == "fetch_failed"


async def test_idn_host(server: LocalServer) -> None:
    """An internationalised name is resolved and sent in its ASCII form."""
    server.answers["/"] = reply(b"picture")
    options = replace(TRUSTING, allowed_hosts=("bücher.example",))
    async with fetching(options, {"xn--bcher-kva.example": ["127.0.0.1"]}) as fetcher:
        assert await fetcher.fetch(server.url("/", host="bücher.example")) == b"picture"
    assert server.header("host") == f"xn--bcher-kva.example:{server.port}"


async def test_trailing_dot(server: LocalServer) -> None:
    """A fully qualified name with its final dot is the same host."""
    server.answers["/"] = reply(b"picture")
    async with fetching() as fetcher:
        assert await fetcher.fetch(server.url("/", host="Pictures.Example.")) == b"picture"
    assert server.header("host") == f"pictures.example:{server.port}"


async def test_restricted_ports(server: LocalServer) -> None:
    """An operator may restrict the ports; the scheme's own port counts where none is named."""
    async with fetching(replace(TRUSTING, ports=(443,))) as fetcher:
        for url in (server.url("/"), "http://pictures.example/"):
            with pytest.raises(InvalidInput, match="allowed: 443") as refusal:
                await fetcher.fetch(url)
            assert refusal.value.code == "url_forbidden"
    assert server.requests == []


@pytest.mark.parametrize("status", [401, 403, 404, 500, 304, 204])
async def test_answers_that_are_no_success(server: LocalServer, status: int) -> None:
    """The status is told, the path and the query are not; 204 is a success without a body."""
    server.answers["/private/path"] = reply(b"", status=status)
    async with fetching() as fetcher:
        if status == 204:
            assert await fetcher.fetch(server.url("/private/path")) == b""
            return
        with pytest.raises(InvalidInput) as failure:
            await fetcher.fetch(server.url("/private/path?token=hunter2"))
    assert failure.value.message == f"the server pictures.example answered {status}"
    assert failure.value.code == "fetch_failed"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server: LocalServer, status: int) -> None:
    """Relative and absolute redirects lead to the body."""
    server.answers["/old/a"] = reply(b"", status=status, location="../new")
    server.answers["/new"] = reply(b"", status=status, location=server.url("/newest"))
    server.answers["/newest"] = reply(b"picture")
    async with fetching() as fetcher:
        assert await fetcher.fetch(server.url("/old/a")) == b"picture"


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/secret", "//127.0.0.1:{port}/secret", "http://other.example:{port}/secret", "http://[::1]:{port}/"]
)
async def test_redirects_inside_are_refused(server: LocalServer, target: str) -> None:
    """Each redirect is checked like the first URL: a trusted host cannot lead to addresses nobody trusts."""
    server.answers["/"] = reply(b"", status=302, location=target.format(port=server.port))
    server.answers["/secret"] = reply(b"secret")
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput) as refusal:
            await fetcher.fetch(server.url("/"))
    assert refusal.value.code == "url_forbidden"
    assert len(server.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://pictures.example/", "http://user:pass@pictures.example/", "http://[::1"])
async def test_redirects_to_what_is_no_url(server: LocalServer, target: str) -> None:
    """A redirect to another scheme, to credentials or to nonsense is refused."""
    server.answers["/"] = reply(b"", status=302, location=target)
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput):
            await fetcher.fetch(server.url("/"))
    assert len(server.requests) == 1


async def test_redirect_loop(server: LocalServer) -> None:
    """Five redirects are followed, no more."""
    server.answers["/"] = reply(b"", status=302, location="/")
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput, match="redirects more than 5 times"):
            await fetcher.fetch(server.url("/"))
    assert len(server.requests) == 6


async def test_caller_headers_stay_with_their_origin(server: LocalServer) -> None:
    """Headers of the caller reach the origin it named, also after a redirect there, and no other origin."""
    server.answers["/same"] = reply(b"", status=302, location="/end")
    server.answers["/cross"] = reply(b"", status=302, location=server.url("/end", host="other.example"))
    server.answers["/end"] = reply(b"picture")
    headers = {"Authorization": "Bearer hunter2", "User-Agent": "mine"}
    async with fetching(replace(TRUSTING, allowed_hosts=("pictures.example", "other.example"))) as fetcher:
        await fetcher.fetch(server.url("/same"), headers)
        assert (server.header("authorization"), server.header("user-agent")) == ("Bearer hunter2", "mine")
        await fetcher.fetch(server.url("/cross"), headers)
        assert server.header("authorization") is None
        assert server.header("user-agent") != "mine"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "internal"},
        {"hOsT": "internal"},
        {"Connection": "keep-alive"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "5"},
        {"Proxy-Authorization": "x"},
        {"Upgrade": "h2c"},
        {"X-A": "b\r\nHost: internal"},
        {"X-A\r\nHost": "internal"},
        {"X A": "b"},
        {"": "b"},
        {"X-A": "\0"},
        {"X-A": "é"},
        {f"X-{index}": "" for index in range(33)},
        {"X-A": "b" * 9000},
    ],
)
async def test_headers_that_cannot_be_set(server: LocalServer, headers: dict[str, str]) -> None:
    """Headers of the connection, line breaks and floods are refused before anything is sent."""
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput) as refusal:
            await fetcher.fetch(server.url("/"), headers)
    assert refusal.value.field == "headers"
    assert server.requests == []


async def test_no_cookies_are_kept(server: LocalServer) -> None:
    """A cookie set for one caller is not sent for the next."""
    server.answers["/"] = reply(b"picture", set_cookie="session=hunter2; Path=/")
    async with fetching() as fetcher:
        await fetcher.fetch(server.url("/"))
        await fetcher.fetch(server.url("/"))
    assert server.header("cookie") is None


async def test_body_at_and_beyond_the_limit(server: LocalServer) -> None:
    """The byte limit is inclusive; a stated length beyond it is refused before the body is read."""
    server.answers["/fits"] = reply(bytes(1000))
    server.answers["/large"] = reply(b"", length=1001)
    async with fetching(replace(TRUSTING, max_bytes=1000)) as fetcher:
        assert len(await fetcher.fetch(server.url("/fits"))) == 1000
        with pytest.raises(InputTooLarge, match="more than 1000 bytes"):
            await fetcher.fetch(server.url("/large"))


async def test_endless_body(server: LocalServer) -> None:
    """A body without a stated length is read up to the limit, and then the connection is closed."""

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    server.answers["/"] = endless
    async with fetching(replace(TRUSTING, max_bytes=1_000_000)) as fetcher:
        with pytest.raises(InputTooLarge):
            await fetcher.fetch(server.url("/"))
        async with asyncio.timeout(2):
            await server.idle.wait()


async def test_endless_chunks_and_a_length_that_lies(server: LocalServer) -> None:
    """Chunked bodies count too; a body shorter than its stated length is a broken download."""

    async def chunks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
            await writer.drain()

    server.answers["/chunks"] = chunks
    server.answers["/short"] = reply(b"half", length=8)
    async with fetching(replace(TRUSTING, max_bytes=100_000)) as fetcher:
        with pytest.raises(InputTooLarge):
            await fetcher.fetch(server.url("/chunks"))
        with pytest.raises(InvalidInput, match="broke off") as failure:
            await fetcher.fetch(server.url("/short"))
    assert failure.value.code == "fetch_failed"


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_body(server: LocalServer, coding: str, pack: object) -> None:
    """A server that compresses although it was not asked to is understood."""
    body = bytes(range(256)) * 4000
    server.answers["/"] = reply(pack(body), content_encoding=coding)  # type: ignore[operator]
    async with fetching() as fetcher:
        assert await fetcher.fetch(server.url("/")) == body


async def test_gzip_bomb(server: LocalServer) -> None:
    """A small body that expands beyond the limit is stopped there, and the event loop keeps running meanwhile."""
    bomb = zlib.compressobj(wbits=31)
    packed = b"".join(bomb.compress(bytes(1_000_000)) for _ in range(300)) + bomb.flush()
    server.answers["/"] = reply(packed, content_encoding="gzip")
    worst_s, last = 0.0, time.perf_counter()

    async def watch() -> None:
        nonlocal worst_s, last
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst_s, last = max(worst_s, now - last), now

    async with fetching(replace(TRUSTING, max_bytes=20_000_000)) as fetcher:
        last = time.perf_counter()
        watcher = asyncio.create_task(watch())
        started = time.perf_counter()
        with pytest.raises(InputTooLarge):
            await fetcher.fetch(server.url("/"))
        assert time.perf_counter() - started < 3
        watcher.cancel()
    assert worst_s < 0.2


@pytest.mark.parametrize(
    ("body", "coding"),
    [(gzip.compress(bytes(1000))[:-9], "gzip"), (b"no gzip at all", "gzip"), (b"x", "br"), (b"x", "gzip, gzip"), (b"x", "zstd")],
)
async def test_compression_that_cannot_be_read(server: LocalServer, body: bytes, coding: str) -> None:
    """Truncated or damaged gzip and codings nobody asked for are the server's fault."""
    server.answers["/"] = reply(body, content_encoding=coding)
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput) as failure:
            await fetcher.fetch(server.url("/"))
    assert failure.value.code == "fetch_failed"


async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Say nothing until the client goes away."""
    await reader.read()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_silent_server(server: LocalServer) -> None:
    """A server that says nothing is given up after the read timeout, and the connection is closed."""
    server.answers["/"] = never
    async with fetching(replace(TRUSTING, read_timeout_s=0.2)) as fetcher:
        with pytest.raises(InvalidInput, match="does not answer in time") as failure:
            await fetcher.fetch(server.url("/"))
        assert failure.value.code == "fetch_failed"
        async with asyncio.timeout(2):
            await server.idle.wait()


async def test_dripping_server(server: LocalServer) -> None:
    """A server that keeps every read alive still ends with the total time."""
    server.answers["/"] = drip
    async with fetching(replace(TRUSTING, total_timeout_s=0.5)) as fetcher:
        with pytest.raises(InvalidInput, match=r"took longer than 0\.5 s") as failure:
            await fetcher.fetch(server.url("/"))
        assert failure.value.code == "fetch_failed"
        async with asyncio.timeout(2):
            await server.idle.wait()


async def test_slow_name_server() -> None:
    """A name server that does not answer counts against the total time."""

    async def slow(_: str) -> Sequence[str]:
        await asyncio.sleep(30)
        return []

    fetcher = Fetcher(replace(TRUSTING, total_timeout_s=0.2), slow)
    try:
        with pytest.raises(InvalidInput, match="took longer"):
            await fetcher.fetch("http://pictures.example/")
    finally:
        await fetcher.close()


async def test_cancelling_closes_the_connection(server: LocalServer) -> None:
    """A cancelled fetch leaves no connection, also in the middle of a body."""
    server.answers["/never"] = never
    server.answers["/drip"] = drip
    async with fetching() as fetcher:
        for path in ("/never", "/drip"):
            task = asyncio.create_task(fetcher.fetch(server.url(path)))
            async with asyncio.timeout(2):
                while not server.requests or not server.requests[-1].startswith(f"GET {path} "):  # noqa: ASYNC110 – the server has no event for it
                    await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(2):
                await server.idle.wait()


async def test_unreachable_and_foreign_servers(server: LocalServer) -> None:
    """A closed port and a server that does not speak HTTP are download failures."""
    server.answers["/"] = b"SSH-2.0-OpenSSH_9.2\r\n"
    async with fetching() as fetcher:
        with pytest.raises(InvalidInput, match="is not HTTP") as failure:
            await fetcher.fetch(server.url("/"))
        assert failure.value.code == "fetch_failed"
        with pytest.raises(InvalidInput, match="cannot be connected") as failure:
            await fetcher.fetch("http://pictures.example:1/")
        assert failure.value.code == "fetch_failed"


async def test_concurrency_is_bounded(server: LocalServer) -> None:
    """No more downloads run at once than allowed; who waits too long is told to come back."""
    server.answers["/"] = reply(b"picture")
    running = most = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        writer.write(reply(b"picture"))

    server.answers["/"] = count
    async with fetching(replace(TRUSTING, concurrency=3)) as fetcher:
        assert await asyncio.gather(*(fetcher.fetch(server.url("/")) for _ in range(12))) == [b"picture"] * 12
    assert most == 3
    server.answers["/"] = never
    options = replace(TRUSTING, concurrency=1, total_timeout_s=0.3)
    async with fetching(options) as fetcher, fetcher._place():
        with pytest.raises(Overloaded, match="all 1 downloads are busy"):
            await fetcher.fetch(server.url("/"))


async def test_proxies_of_the_environment_are_ignored(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment, which could reach what this host may not, is not used."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answers["/"] = reply(b"picture")
    async with fetching() as fetcher:
        assert await fetcher.fetch(server.url("/")) == b"picture"


async def test_explicit_proxy(server: LocalServer) -> None:
    """With a proxy the name goes to the proxy unresolved; literal addresses are still refused here."""
    server.answers["http://far.example/a.jpg"] = reply(b"from the proxy")
    async with fetching(replace(TRUSTING, proxy=f"http://127.0.0.1:{server.port}")) as fetcher:
        assert await fetcher.fetch("http://far.example/a.jpg") == b"from the proxy"
        for host in ("127.0.0.1", "2130706433", "[::1]"):
            with pytest.raises(InvalidInput, match="public address"):
                await fetcher.fetch(f"http://{host}/a.jpg")
    assert len(server.requests) == 1


async def test_tls_is_verified_for_the_name(tmp_path: Path) -> None:
    """Over TLS the certificate must be for the name in the URL, by a trusted authority, although the address is pinned."""
    import ssl  # noqa: PLC0415 – this test alone

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pictures.example").configure_cert(context)
    trusted = replace(TRUSTING, allowed_hosts=("pictures.example", "other.example"), ca_file=str(tmp_path / "ca.pem"))
    async with local_server(context) as server:
        server.answers["/"] = reply(b"picture")
        async with fetching(trusted) as fetcher:
            assert await fetcher.fetch(server.url("/", scheme="https")) == b"picture"
            assert await fetcher.fetch(server.url("/", host="pictures.example.", scheme="https")) == b"picture"
            with pytest.raises(InvalidInput, match=r"certificate of other\.example"):
                await fetcher.fetch(server.url("/", host="other.example", scheme="https"))
        async with fetching(replace(trusted, ca_file=None)) as fetcher:
            with pytest.raises(InvalidInput, match=r"certificate of pictures\.example") as failure:
                await fetcher.fetch(server.url("/", scheme="https"))
    assert failure.value.code == "fetch_failed"
    assert len(server.requests) == 2


async def test_nothing_of_the_url_is_logged(server: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
    """Successes and failures leave no trace of query, path or headers in the log."""
    caplog.set_level(logging.INFO)
    server.answers["/private/path"] = reply(b"picture")
    async with fetching() as fetcher:
        await fetcher.fetch(server.url("/private/path?token=hunter2"), {"authorization": "hunter2"})
        with pytest.raises(InvalidInput):
            await fetcher.fetch(server.url("/private/missing?token=hunter2"))
    assert "hunter2" not in caplog.text
    assert "private" not in caplog.text

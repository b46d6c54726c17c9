"""Everything out of a data folder into Redis and back, by command."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from benchmarks.redis_server import Line, RedisServer, missing
from benchmarks.service import Service
from face_server.domain.identity import Collection
from face_server.pipeline.transfer_file import TransferWriter
from tests.cli.migration_parts import MODEL, filled

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

COLLECTIONS = ("guests", "staff", "strangers")
LEGACY_MODEL = "glintr100@aabbccddeeff/p1/512d"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests of this file."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no", "--enable-debug-command", "local") as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """The Redis, with nothing in it."""
    running.command("FLUSHALL")
    return running


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with something of everything. Only to be copied."""
    return filled(tmp_path_factory.mktemp("full"))


@pytest.fixture
def old(full: Path, tmp_path: Path) -> Path:
    """A data folder with something of everything."""
    return Path(shutil.copytree(full, tmp_path / "old"))


def exports(face_server: Callable[..., Any], folder: Path, into: Path, **variables: str) -> dict[str, bytes]:
    """Each collection as the file that `export` writes."""
    into.mkdir()
    for name in COLLECTIONS:
        ended = face_server("export", into / name, "--collection", name, "--data", folder, **variables)
        assert ended.code == 0, ended
    return {name: (into / name).read_bytes() for name in COLLECTIONS}


def one_sentence(ended: Any, *words: str) -> bool:
    """Whether a command ended with code 2 and one line, in which the words are."""
    return ended.code == 2 and len(ended.err.splitlines()) == 1 and all(word in ended.err for word in words)


class TestThereAndBack:
    """A move that nothing disturbs."""

    def test_exports_are_the_same_on_all_three_sides(
        self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path
    ) -> None:
        """The folder, the Redis, the folder filled from it: identical files, and everything else compared."""
        before = exports(face_server, old, tmp_path / "a")
        there = face_server("migrate", f"sqlite:{old}", server.url, "--json")
        assert there.code == 0, there
        parts = {one["what"]: one for one in there.json["parts"]}
        assert there.json["same"] is True
        counts = {what: one["count"] for what, one in parts.items()}
        assert counts == {
            "collections": 3,
            "people of 'guests'": 1,
            "templates of 'guests'": 2,
            "people of 'staff'": 450,
            "templates of 'staff'": 900,
            "people of 'strangers'": 2,
            "templates of 'strangers'": 1,
            "API keys": 2,
            "streams": 2,
            "events": 120,
            "deliveries": 77,
            "dead letters": 3,
        }
        shared = {"FACE_SERVER_STATE__REDIS_URL": server.url}
        assert exports(face_server, tmp_path / "nowhere", tmp_path / "b", **shared) == before
        back = face_server("migrate", server.url, tmp_path / "new", "--json", "--data", old)
        assert back.code == 0, back
        assert exports(face_server, tmp_path / "new", tmp_path / "c") == before
        assert {one["what"]: one["sha256"] for one in back.json["parts"]} == {what: one["sha256"] for what, one in parts.items()}

    def test_addresses_are_sealed_with_the_key_of_the_target(
        self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path
    ) -> None:
        """A key in the environment seals the Redis; no store holds an address that can be read, each opens with its own key."""
        other = {"FACE_SERVER_STREAMS__SECRET_KEY": "7" * 64}
        assert face_server("migrate", old, server.url, **other).code == 0
        stored = b"".join(redis.Redis(port=server.port).hvals("face_server:{main:journal}:v1:streams"))
        assert b"s1:" in stored
        assert b"pass-word" not in stored
        assert b"a-sink-secret" not in stored
        wrong = face_server("migrate", server.url, tmp_path / "new")
        assert one_sentence(wrong, "encrypt"), wrong
        assert face_server("migrate", server.url, tmp_path / "newer", **other).code == 0
        assert face_server("migrate", old, tmp_path / "newer", "--check", **other).code == 0

    def test_keys_open_the_same_doors(self, old: Path, server: RedisServer, face_server: Callable[..., Any]) -> None:
        """Keys are listed alike on both sides, can be revoked and made in Redis, and no secret was needed to move them."""
        assert face_server("migrate", old, server.url).code == 0
        shared = {"FACE_SERVER_STATE__REDIS_URL": server.url}
        mine, theirs = face_server("keys", "list", "--json", "--data", old).json, face_server("keys", "list", "--json", **shared).json
        assert mine == theirs
        by_label = {one["label"]: one for one in theirs}
        assert by_label.keys() == {"the operator", "a screen"}
        assert by_label["a screen"]["last_used_at"] is not None
        assert face_server("keys", "revoke", by_label["the operator"]["id"], **shared).code == 0
        made = face_server("keys", "create", "--role", "read", "--json", **shared).json
        assert [one["id"] for one in face_server("keys", "list", "--json", **shared).json] == [by_label["a screen"]["id"], made["id"]]

    def test_an_export_goes_into_redis(self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """`import` fills the Redis of the settings, whose export is the same file again."""
        shared = {"FACE_SERVER_STATE__REDIS_URL": server.url}
        face_server("export", tmp_path / "one", "--collection", "staff", "--data", old)
        assert face_server("import", tmp_path / "one", "--json", **shared).json["templates_added"] == 900
        face_server("export", tmp_path / "two", "--collection", "staff", **shared)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_what_people_read(self, old: Path, server: RedisServer, face_server: Callable[..., Any]) -> None:
        """A table of what was compared, a sentence, no password; a second run is told that the target is not empty."""
        server.command("ACL", "SETUSER", "mover", "on", ">se/cret", "~*", "&*", "+@all")
        url = f"redis://mover:se%2Fcret@127.0.0.1:{server.port}/0"
        ended = face_server("migrate", old, url, "--namespace", "site")
        assert ended.code == 0, ended
        assert "holds everything that" in ended.out
        assert ["templates", "of", "'staff'", "900", "same", "on", "both", "sides"] in [line.split() for line in ended.out.splitlines()]
        assert "se/cret" not in (said := ended.out + ended.err)
        assert "se%2Fcret" not in said
        again = face_server("migrate", old, url, "--namespace", "site")
        assert one_sentence(again, "already holds the collection 'guests' with 1 people and 5 other things"), again
        check = face_server("migrate", old, url, "--namespace", "site", "--check")
        assert check.code == 0, check


def _in_redis(server: RedisServer) -> tuple[int, int]:
    """How many templates of the staff and events a Redis holds."""
    client = redis.Redis(port=server.port)
    number = client.hget("face_server:{main:gallery}:v1:collections", "staff")
    templates = client.hlen(f"face_server:{{main:gallery}}:v1:c:{number.decode()}:templates") if number else 0
    return templates, client.hlen("face_server:{main:journal}:v1:events")


def _in_folder(folder: Path) -> tuple[int, int]:
    """How many templates of the staff and events a folder holds."""
    counts = []
    for name, query in (
        ("gallery", "SELECT templates FROM collections WHERE name = 'staff'"),
        ("journal", "SELECT COUNT(*) FROM events"),
    ):
        row = None
        with contextlib.suppress(sqlite3.OperationalError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(f"file:{folder}/{name}.sqlite?mode=ro", uri=True)))
            row = connection.execute(query).fetchone()
        counts.append(row[0] if row else 0)
    return counts[0], counts[1]


class TestInterruption:
    """A move that is killed, and goes on."""

    @pytest.mark.parametrize("back", [False, True], ids=["to redis", "to sqlite"])
    def test_kill_and_resume(self, back: bool, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """Killed among templates and among events, each time run again: in the end both sides are the same, nothing twice."""
        before = exports(face_server, old, tmp_path / "a")
        new = tmp_path / "new"
        if back:
            assert face_server("migrate", old, server.url).code == 0
        with Line(server.port) as line:
            # Slow enough to be met in the middle.
            line.delay_s = 0.005
            places = (line.url, new) if back else (old, line.url)
            command = [sys.executable, "-m", "face_server", "migrate", *map(str, places), "--data", str(old)]
            for wanted in ((300, 0), (900, 1)):
                with subprocess.Popen(command, env=face_server.environment(), stdout=subprocess.DEVNULL) as process:
                    while (reached := _in_folder(new) if back else _in_redis(server)) < wanted:
                        assert process.poll() is None, reached
                        time.sleep(0.002)
                    process.kill()
                assert process.returncode == -signal.SIGKILL
                assert reached < (900, 120), reached
            line.delay_s = 0.0
            ended = face_server("migrate", *places, "--data", old)
            assert ended.code == 0, ended
            assert face_server("migrate", *places, "--data", old, "--check").code == 0
        shared = {} if back else {"FACE_SERVER_STATE__REDIS_URL": server.url}
        assert exports(face_server, new, tmp_path / "b", **shared) == before

    def test_a_half_filled_target_is_nobody_elses(
        self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path
    ) -> None:
        """Another source is refused while the note of an unfinished move is there."""
        server.command("SET", "face_server:{main:migration}", "sqlite:/elsewhere")
        assert one_sentence(face_server("migrate", old, server.url), "half filled from sqlite:/elsewhere")


class TestRefusals:
    """What cannot be moved is one sentence, and nothing is changed."""

    def test_a_damaged_template(self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """It is named with its key, on the way out of Redis."""
        assert face_server("migrate", old, server.url).code == 0
        client = redis.Redis(port=server.port)
        key = next(one for one in client.scan_iter("*:templates") if client.hlen(one) == 900)
        field, record = next(iter(client.hscan_iter(key)))
        client.hset(key, field, record[:-3])
        ended = face_server("migrate", server.url, tmp_path / "new", "--data", old)
        assert one_sentence(ended, key.decode(), "half-written"), ended

    def test_a_damaged_event_stream_or_key(self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """Everything else is moved, the record is named, and the command fails; both sides are said not to be the same."""
        assert face_server("migrate", old, server.url).code == 0
        client = redis.Redis(port=server.port)
        journal = "face_server:{main:journal}:v1:"
        for name in ("events", "streams", "keys"):
            field = client.hkeys(journal + name)[0]
            client.hset(journal + name, field, b"{}\n{")
        ended = face_server("migrate", server.url, tmp_path / "new", "--data", old, "--json")
        assert ended.code == 1, ended
        last = ended.json["parts"][-1]
        assert (last["what"], last["count"], ended.json["same"]) == ("records that cannot be read", 3, False)
        assert "damaged" in ended.err

    def test_a_newer_layout(self, old: Path, server: RedisServer, face_server: Callable[..., Any]) -> None:
        """Of either area: refused, nothing overwritten."""
        for area in ("gallery", "journal"):
            server.command("FLUSHALL")
            server.command("SET", f"face_server:{{main:{area}}}:layout", "2")
            assert one_sentence(face_server("migrate", old, server.url), "version 2"), area
            assert server.command("GET", f"face_server:{{main:{area}}}:layout") == b"2"
            assert server.command("EXISTS", "face_server:{main:migration}") == 0

    def test_a_target_that_holds_something(self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """One person, one key, or one stream is enough; an empty first collection of a server is not."""
        shared = {"FACE_SERVER_STATE__REDIS_URL": server.url}
        face_server("keys", "create", "--role", "admin", **shared)
        assert one_sentence(face_server("migrate", old, server.url), "already holds 1 API keys", "choose an empty target")
        assert one_sentence(face_server("migrate", server.url, old, "--data", old), "already holds the collection 'guests'")

    def test_an_empty_collection_is_nothing(self, full: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """What a server makes at its first start gives way."""
        client = redis.Redis(port=server.port)
        assert face_server("import", _empty_export(face_server, full, tmp_path), FACE_SERVER_STATE__REDIS_URL=server.url).code == 0
        assert client.hkeys("face_server:{main:gallery}:v1:collections") == [b"default"]
        copied = Path(shutil.copytree(full, tmp_path / "copied"))
        assert face_server("migrate", copied, server.url).code == 0
        assert sorted(client.hkeys("face_server:{main:gallery}:v1:collections")) == [b"guests", b"staff", b"strangers"]

    def test_a_redis_without_room(self, old: Path, server: RedisServer, face_server: Callable[..., Any]) -> None:
        """Where maxmemory ends it, a sentence says so; with more room the same command finishes."""
        server.command("CONFIG", "SET", "maxmemory", server.command("INFO", "memory")["used_memory"] + 700_000)
        try:
            ended = face_server("migrate", old, server.url)
            assert one_sentence(ended, "has reached maxmemory"), ended
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)
        assert face_server("migrate", old, server.url).code == 0

    def test_an_altered_target_is_noticed(self, old: Path, server: RedisServer, face_server: Callable[..., Any]) -> None:
        """A single bit of a vector, a changed setting, an event or a picture too few: each is named."""
        assert face_server("migrate", old, server.url).code == 0
        client = redis.Redis(port=server.port)
        gallery, journal = "face_server:{main:gallery}:v1:", "face_server:{main:journal}:v1:"
        number = client.hget(gallery + "collections", "staff").decode()
        place = f"{gallery}c:{number}:templates"
        field, record = next(iter(client.hscan_iter(place)))
        settings, picture = f"{gallery}c:{number}", journal + "picture:face-3"
        nearby = np.nextafter(np.frombuffer(record[-4:], "<f4"), np.float32(1)).tobytes()
        alterations: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
            (
                "templates of 'staff'",
                lambda: client.hset(place, field, record[:-4] + nearby),
                lambda: client.hset(place, field, record),
            ),
            ("collections", lambda: client.hset(settings, "margin", "0.06"), lambda: client.hset(settings, "margin", "0.05")),
            ("events", lambda: client.rename(picture, "away"), lambda: client.rename("away", picture)),
        ]
        for what, alter, restore in alterations:
            alter()
            ended = face_server("migrate", old, server.url, "--check")
            assert ended.code == 1, (what, ended)
            assert f"not the same: {what}: " in ended.err, (what, ended)
            restore()
        assert face_server("migrate", old, server.url, "--check").code == 0

    def test_running_servers(
        self, server: RedisServer, server_with: Callable[..., Any], data: Path, face_server: Callable[..., Any]
    ) -> None:
        """A folder that a server works with is refused, either way; once it has stopped, it can be moved."""
        served = server_with()
        assert one_sentence(face_server("migrate", data, server.url), "in use", "stop the face server"), data
        assert server.command("DBSIZE") == 0
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(20)
        assert face_server("migrate", data, server.url).code == 0

    def test_replicas_that_run_with_redis(
        self, old: Path, server: RedisServer, face_server: Callable[..., Any], data: Path, tmp_path: Path
    ) -> None:
        """A namespace that a server works with is refused as source and as target, at once and even if it runs no streams."""
        shared = {"FACE_SERVER_STATE__REDIS_URL": server.url}
        with Service(data, arguments=("--no-streams",), environment=shared, models=data / "models"):
            assert one_sentence(face_server("migrate", old, server.url), "are running with", "stop them")
            assert one_sentence(face_server("migrate", server.url, tmp_path / "new"), "are running with")
            assert face_server("migrate", old, server.url, "--namespace", "other").code == 0

    def test_nonsense(self, old: Path, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """Nothing there, the same twice, half a command, another scheme, a wrong password: a sentence each, nothing made."""
        dead = "redis://127.0.0.1:1/0"
        for words, found in (
            ((tmp_path / "nowhere", server.url), "no gallery in"),
            ((server.url, tmp_path / "new"), "no gallery at"),
            ((old, f"sqlite:{old}"), "are both"),
            ((old,), "say FROM and TO"),
            ((old, "mysql://x"), "must begin with redis://"),
            ((old, dead), "cannot be reached"),
            ((old, "redis"), "FACE_SERVER_STATE__REDIS_URL"),
            ((old, f"redis://:wrong-one@127.0.0.1:{server.port}/0"), "password"),
        ):
            ended = face_server("migrate", *words)
            assert one_sentence(ended, found), ended
            assert "wrong-one" not in ended.err
        assert server.command("DBSIZE") == 0
        assert not (tmp_path / "nowhere").exists()


def _empty_export(face_server: Callable[..., Any], full: Path, tmp_path: Path) -> Path:
    """An export with nobody in it, of a collection `default`."""
    file = tmp_path / "empty"
    writer = TransferWriter(tmp_path / "part", crops=True)
    writer.finish(Collection("default", MODEL, created_at=5.0))
    (tmp_path / "part").rename(file)
    writer.close()
    return file


class TestFaceServer:
    """The Redis of the system that came before."""

    @staticmethod
    def legacy(server: RedisServer) -> dict[str, np.ndarray[Any, Any]]:
        """Fill db 0 and 1 of a Redis like the face server does, and with things that do not belong there."""
        noise = np.random.default_rng(5)
        names = ["张三", "李四", "Ada Lovelace", *(f"员工{number:03}" for number in range(600))]
        vectors = {name: (noise.normal(size=(1, 512)) * 20).astype("<f4") for name in names}
        known, strangers = redis.Redis(port=server.port, db=0), redis.Redis(port=server.port, db=1)
        known.mset({name: vector.tobytes() for name, vector in vectors.items()})
        strangers.mset({str(number): (noise.normal(size=(1, 512)) * 20).astype("<f4").tobytes() for number in (3, 17, 41)})
        known.set("too short", b"x" * 2047)
        known.set("not numbers", np.full(512, np.nan, "<f4").tobytes())
        known.set("zeros", bytes(2048))
        known.set(b"\xff\xfe", vectors["张三"].tobytes())
        known.set("line\nbreak", vectors["张三"].tobytes())
        known.lpush("a list", "x")
        strangers.set("next_id", "42")
        return vectors

    def test_people_and_strangers_come_over(self, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """Every name and number, vectors of length 1, the rest is reported; a second run adds nothing; the source stays as it was."""
        vectors = self.legacy(server)
        before = server.command("DEBUG", "DIGEST")
        words = ("migrate", "--from-face-server", f"redis://127.0.0.1:{server.port}", "--collection", "staff", "--model", LEGACY_MODEL)
        ended = face_server(*words, "--data", tmp_path / "data", "--json")
        assert ended.code == 1, ended
        people, strangers = ended.json["people"], ended.json["strangers"]
        assert (people["added"], people["skipped"], len(people["refused"])) == (603, 0, 6)
        assert sorted(one["key"] for one in people["refused"]) == [
            "\\xff\\xfe",
            "a list",
            "line\nbreak",
            "not numbers",
            "too short",
            "zeros",
        ]
        assert (strangers["added"], [one["key"] for one in strangers["refused"]]) == (3, ["next_id"])
        assert server.command("DEBUG", "DIGEST") == before
        stored = _stored(tmp_path / "data")
        assert stored.keys() == vectors.keys() | {"Stranger 3", "Stranger 17", "Stranger 41"}
        for name, vector in vectors.items():
            np.testing.assert_allclose(stored[name], vector[0] / np.linalg.norm(vector), atol=1e-6)
        again = face_server(*words, "--data", tmp_path / "data", "--json").json
        assert [(again[what]["added"], again[what]["skipped"]) for what in ("people", "strangers")] == [(0, 603), (0, 3)]
        text = face_server(*words, "--data", tmp_path / "data")
        assert "left behind  too short: its value is no embedding of 2048 bytes" in text.out

    def test_into_redis(self, server: RedisServer, face_server: Callable[..., Any], tmp_path: Path) -> None:
        """The state may be another database of the same Redis; the next stranger's number is above theirs."""
        self.legacy(server)
        shared = {"FACE_SERVER_STATE__REDIS_URL": f"redis://127.0.0.1:{server.port}/5"}
        words = ("migrate", "--from-face-server", f"redis://127.0.0.1:{server.port}", "--collection", "staff", "--model", LEGACY_MODEL)
        assert face_server(*words, "--json", **shared).json["people"]["added"] == 603
        face_server("export", tmp_path / "strangers", "--collection", "strangers", **shared)
        assert b'"highest":"41"' in (tmp_path / "strangers").read_bytes()

    def test_the_wrong_model(self, server: RedisServer, face_server: Callable[..., Any], data: Path, old: Path) -> None:
        """Another dimension, a detector, an unknown name, a collection of another model, no model: a sentence each, nothing added."""
        self.legacy(server)
        words = ("migrate", "--from-face-server", f"redis://127.0.0.1:{server.port}", "--collection", "staff")
        for model, folder, found in (
            ("sface", data, "have 512 numbers"),
            ("yunet", data, "makes no embeddings"),
            ("resnet", data, "resnet"),
            ("name@zz", data, "not a model id"),
            (LEGACY_MODEL, old, "cannot be compared"),
        ):
            ended = face_server(*words, "--model", model, "--data", folder)
            assert one_sentence(ended, found), ended
        assert one_sentence(face_server(*words, "--data", data), "needs --collection and --model")
        assert not (data / "gallery.sqlite").exists()


def _stored(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    with contextlib.closing(sqlite3.connect(folder / "gallery.sqlite")) as connection:
        rows = connection.execute("SELECT i.name, t.vector FROM templates t JOIN identities i ON i.key = t.identity_key").fetchall()
    return {name: np.frombuffer(vector, "<f4") for name, vector in rows}

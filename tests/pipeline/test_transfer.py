"""Collections as files: out, in, damaged, hostile."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import (
    AddTemplate,
    Change,
    Collection,
    Identity,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    Template,
    TemplateRecord,
)
from face_server.domain.ports import Gallery
from face_server.errors import Conflict, InputTooLarge, InvalidInput, ModelMismatch, NotFound, Unavailable
from face_server.gallery.sqlite import SqliteGallery
from face_server.pipeline.transfer import Clash, ImportReport, Transfer
from face_server.workers import Workers

MODEL = ModelId("toy", "00", 1, 32)
PEOPLE = 260

Rewrite = Callable[[dict[str, bytes]], None]


def vector(seed: int) -> np.ndarray:
    """A unit vector."""
    raw = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    return raw / np.linalg.norm(raw)


def added(template_id: str, identity_id: str, seed: int, crop: bytes | None = None) -> AddTemplate:
    """The change that adds a template."""
    shown = Template(template_id, identity_id, 0.1 + seed / 1e4, 1e9 + seed / 3, f"{seed}.jpg", f"{seed:064x}")
    return AddTemplate(TemplateRecord(shown, Embedding(vector(seed), 7 + seed / 7, MODEL), crop))


def enrolled(number: int) -> list[Change]:
    """Somebody with two templates, every third with a crop."""
    name = f"p{number:03}"
    put = PutIdentity(Identity(name, f"王 {number}", {"部门": "研发"}, 1e9 + number / 3))
    crop = bytes([255, 216, number % 256]) * (number % 50 + 1) if number % 3 == 0 else None
    return [put, added(f"t{number:03}-a", name, number, crop), added(f"t{number:03}-b", name, 1_000 + number)]


@pytest.fixture
async def gallery(tmp_path: Path, workers: Workers) -> AsyncIterator[Gallery]:
    """A gallery with the collection "staff": several pages of people, templates and crops."""
    opened = await SqliteGallery.open(tmp_path / "gallery.sqlite3", workers, FakeClock())
    await opened.create_collection(Collection("staff", MODEL, threshold=0.4, margin=0.05, target_fpir=0.02, created_at=5.5))
    await opened.apply("staff", [change for number in range(PEOPLE) for change in enrolled(number)])
    yield opened
    await opened.close()


@pytest.fixture
def transfer(gallery: Gallery, workers: Workers) -> Transfer:
    """The use case."""
    return Transfer(gallery, workers)


@pytest.fixture
async def file(transfer: Transfer, tmp_path: Path) -> Path:
    """The collection, exported."""
    await transfer.export_file("staff", tmp_path / "staff.zip")
    return tmp_path / "staff.zip"


async def contents(gallery: Gallery, collection: str) -> list[Any]:
    """Everything in a collection, to be compared."""
    people = await gallery.identities(collection, limit=10_000)
    records = await gallery.records(collection, limit=10_000)
    return [people, [(one.template, one.embedding.vector.tobytes(), one.embedding.norm, one.crop) for one in records]]


def members_of(path: Path) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of ``members``."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def rewritten(source: Path, path: Path, change: Rewrite) -> Path:
    """A copy whose members were changed and whose manifest was made to fit: a forger knows sha256 too."""
    members = members_of(source)
    change(members)
    manifest = json.loads(members.pop("manifest.json"))
    manifest["members"] = [{"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()]
    return write(path, {**members, "manifest.json": json.dumps(manifest).encode()})


class TestExport:
    async def test_a_collection_comes_back_whole(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """Imported under another name it has the same settings, people, templates, vectors, norms, crops; its export is the same."""
        report = await transfer.import_file(file, collection="copy")
        assert report == ImportReport("copy", created=True, identities_added=PEOPLE, templates_added=2 * PEOPLE)
        assert await contents(gallery, "copy") == await contents(gallery, "staff")
        before, after = await gallery.collection("staff"), await gallery.collection("copy")
        assert (after.model, after.threshold, after.margin, after.target_fpir) == (MODEL, 0.4, 0.05, 0.02)
        assert (after.created_at, after.identities, after.templates) == (before.created_at, before.identities, before.templates)
        probe = Embeddings(vector(7)[None], np.ones(1, np.float32), MODEL)
        assert await gallery.search("copy", probe, limit=5) == await gallery.search("staff", probe, limit=5)
        await gallery.drop_collection("staff")
        await transfer.import_file(file)
        await transfer.export_file("staff", tmp_path / "again.zip")
        assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()

    async def test_any_tool_reads_the_file(self, transfer: Transfer, file: Path) -> None:
        """The members are what the documentation says, uncompressed; vectors are plain float32."""
        members = members_of(file)
        manifest = json.loads(members["manifest.json"])
        assert (manifest["format"], manifest["version"]) == ("face_server collection", 1)
        assert (manifest["identities"], manifest["templates"]) == (PEOPLE, 2 * PEOPLE)
        lines = [json.loads(line) for line in members["templates/000000.jsonl"].splitlines()]
        vectors = np.frombuffer(members["vectors/000000.f32"], "<f4").reshape(len(lines), -1)
        assert np.array_equal(vectors[0], vector(0))
        assert lines[0]["crop_bytes"] == 3
        assert members["crops/000000.bin"][:3] == bytes([255, 216, 0])
        assert json.loads(members["identities/000000.jsonl"].splitlines()[1])["name"] == "王 1"
        with zipfile.ZipFile(file) as archive:
            assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
        assert file.stat().st_mode & 0o777 == 0o600

    async def test_crops_may_stay(self, gallery: Gallery, transfer: Transfer, tmp_path: Path) -> None:
        """Without crops the file holds none; everything else comes back."""
        report = await transfer.export_file("staff", tmp_path / "bare.zip", crops=False)
        assert (report.identities, report.templates) == (PEOPLE, 2 * PEOPLE)
        assert report.bytes == (tmp_path / "bare.zip").stat().st_size
        await transfer.import_file(tmp_path / "bare.zip", collection="copy")
        assert not any(one.crop for one in await gallery.records("copy", limit=10_000))
        assert (await gallery.collection("copy")).templates == 2 * PEOPLE

    async def test_an_empty_collection(self, gallery: Gallery, transfer: Transfer, tmp_path: Path) -> None:
        """It comes back empty, with its settings."""
        await gallery.create_collection(Collection("empty", MODEL, margin=0.5))
        await transfer.export_file("empty", tmp_path / "empty.zip")
        await gallery.drop_collection("empty")
        assert await transfer.import_file(tmp_path / "empty.zip") == ImportReport("empty", created=True)
        assert (await gallery.collection("empty")).margin == 0.5

    async def test_a_failed_export_leaves_nothing(self, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """Unknown collection or unwritable place: an error, no file, and what was there stays."""
        before = file.read_bytes()
        with pytest.raises(NotFound):
            await transfer.export_file("nobody", file)
        with pytest.raises(Unavailable, match="cannot be written"):
            await transfer.export_file("staff", tmp_path / "no" / "folder.zip")
        for delay_s in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02):
            task = asyncio.create_task(transfer.export_file("staff", tmp_path / "cancelled.zip"))
            await asyncio.sleep(delay_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert file.read_bytes() == before
        assert not list(tmp_path.glob(".*.part"))

    async def test_changes_meanwhile_never_leave_a_template_without_its_identity(
        self, gallery: Gallery, transfer: Transfer, tmp_path: Path
    ) -> None:
        """While people come and go, an export is refused or can be imported."""
        stop = False

        async def churn() -> None:
            number = PEOPLE
            while not stop:
                await gallery.apply("staff", [*enrolled(number), RemoveIdentity(f"p{number - PEOPLE:03}")])
                number += 1
                await asyncio.sleep(0.03)

        churning = asyncio.create_task(churn())
        for turn in range(4):
            try:
                await transfer.export_file("staff", tmp_path / f"{turn}.zip")
            except Conflict:
                continue
            await transfer.import_file(tmp_path / f"{turn}.zip", collection=f"copy-{turn}")
        stop = True
        await churning
        assert not list(tmp_path.glob(".*.part"))
        await transfer.export_file("staff", tmp_path / "still.zip")
        await transfer.import_file(tmp_path / "still.zip", collection="still")
        assert await contents(gallery, "still") == await contents(gallery, "staff")

    async def test_nothing_blocks_the_event_loop(self, transfer: Transfer, tmp_path: Path) -> None:
        """Files are written, checked and read in worker threads."""
        with blockbuster_ctx():
            await transfer.export_file("staff", tmp_path / "staff.zip")
            await transfer.import_file(tmp_path / "staff.zip", collection="copy")


class TestClashes:
    async def test_fail_changes_nothing(self, gallery: Gallery, transfer: Transfer, file: Path) -> None:
        """One identity in common, on the last page: a conflict that names it, and nothing is stored."""
        await gallery.create_collection(Collection("other", MODEL))
        await gallery.apply("other", [PutIdentity(Identity("p250", "Somebody")), PutIdentity(Identity("zzz", "Last"))])
        before = await contents(gallery, "other")
        with pytest.raises(Conflict, match="p250"):
            await transfer.import_file(file, collection="other")
        assert await contents(gallery, "other") == before

    async def test_fail_joins_where_nothing_clashes(self, gallery: Gallery, transfer: Transfer, file: Path) -> None:
        """Two groups of different people become one collection, with the settings of the one that was there."""
        await gallery.create_collection(Collection("other", MODEL, margin=0.3))
        await gallery.apply("other", [PutIdentity(Identity("zoe", "Zoe")), added("zoe-1", "zoe", 5_000)])
        report = await transfer.import_file(file, collection="other")
        assert (report.created, report.identities_added) == (False, PEOPLE)
        stored = await gallery.collection("other")
        assert (stored.identities, stored.templates, stored.margin) == (PEOPLE + 1, 2 * PEOPLE + 1, 0.3)

    async def test_skip_keeps_what_is_there(self, gallery: Gallery, transfer: Transfer, file: Path) -> None:
        """Names and templates of the collection stay; what it lacks is added, to people it has as well."""
        renamed = PutIdentity(Identity("p001", "Renamed"))
        other = added("t002-a", "p002", 9_999)
        await gallery.apply("staff", [renamed, RemoveTemplate("t001-a"), RemoveTemplate("t002-a"), other, RemoveIdentity("p003")])
        report = await transfer.import_file(file, clash=Clash.SKIP)
        assert report == ImportReport(
            "staff",
            created=False,
            identities_added=1,
            identities_skipped=PEOPLE - 1,
            templates_added=3,
            templates_skipped=2 * PEOPLE - 3,
        )
        assert (await gallery.identity("staff", "p001"))[0].name == "Renamed"
        assert (await gallery.record("staff", "t002-a")).embedding.vector.tobytes() == vector(9_999).tobytes()
        assert (await gallery.record("staff", "t001-a")).template.identity_id == "p001"
        again = await transfer.import_file(file, clash=Clash.SKIP)
        assert (again.identities_added, again.templates_added) == (0, 0)

    async def test_replace_takes_what_the_file_has(self, gallery: Gallery, transfer: Transfer, file: Path) -> None:
        """Names, metadata and templates of the file win, wherever a template went; what it does not name stays."""
        before = await contents(gallery, "staff")
        moved = [RemoveTemplate("t004-a"), added("t004-a", "p005", 9_999)]
        extra = [PutIdentity(Identity("zoe", "Zoe")), added("zoe-1", "zoe", 5_000)]
        await gallery.apply("staff", [PutIdentity(Identity("p001", "Renamed")), RemoveIdentity("p003"), *moved, *extra])
        report = await transfer.import_file(file, clash=Clash.REPLACE)
        assert (report.identities_added, report.identities_replaced) == (1, PEOPLE - 1)
        assert (report.templates_added, report.templates_replaced) == (2, 2 * PEOPLE - 2)
        await gallery.apply("staff", [RemoveIdentity("zoe")])
        assert await contents(gallery, "staff") == before

    async def test_another_model_is_refused(self, gallery: Gallery, transfer: Transfer, file: Path) -> None:
        """Vectors of one model never get into a collection of another."""
        await gallery.create_collection(Collection("other", ModelId("toy", "01", 1, 32)))
        for clash in Clash:
            with pytest.raises(ModelMismatch):
                await transfer.import_file(file, collection="other", clash=clash)
        assert (await gallery.collection("other")).identities == 0


class TestDamage:
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.9, 0.9999])
    async def test_a_half_written_file(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path, kept: float) -> None:
        """Cut anywhere, nothing of it is imported."""
        data = file.read_bytes()
        (tmp_path / "cut.zip").write_bytes(data[: int(len(data) * kept)])
        await _refused(gallery, transfer, tmp_path / "cut.zip")

    async def test_any_flipped_byte(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """One byte changed anywhere in names, vectors, crops or manifest: refused, nothing imported."""
        data = file.read_bytes()
        for place in np.random.default_rng(1).integers(0, len(data), 40):
            altered = bytearray(data)
            altered[place] ^= 0x10
            (tmp_path / "altered.zip").write_bytes(altered)
            try:
                await transfer.import_file(tmp_path / "altered.zip", collection="copy")
            except InvalidInput:
                with pytest.raises(NotFound):
                    await gallery.collection("copy")
            else:
                # Times and attributes in the archive's own headers carry nothing.
                assert await contents(gallery, "copy") == await contents(gallery, "staff")
                await gallery.drop_collection("copy")

    @pytest.mark.parametrize(
        "members",
        [
            {},
            {"readme.txt": b"hello"},
            {"manifest.json": b"{}"},
            {"manifest.json": b"not json"},
            {"manifest.json": b'{"format": "face_server collection", "version": 2, "more": 1}'},
            {"manifest.json": b'{"format": "something else", "version": 1}'},
        ],
    )
    async def test_other_archives(self, gallery: Gallery, transfer: Transfer, tmp_path: Path, members: dict[str, bytes]) -> None:
        """Archives that no export wrote, or a later one."""
        error = await _refused(gallery, transfer, write(tmp_path / "other.zip", members))
        if b'"version": 2' in members.get("manifest.json", b""):
            assert "version 2" in error.message
            assert "version 1" in error.message

    async def test_no_file_and_no_archive(self, gallery: Gallery, transfer: Transfer, tmp_path: Path) -> None:
        """A missing file, a folder, plain text."""
        (tmp_path / "text.zip").write_text("hello " * 100)
        for path in (tmp_path / "missing.zip", tmp_path, tmp_path / "text.zip"):
            await _refused(gallery, transfer, path)

    async def test_members_that_lead_elsewhere(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """Names with paths, strange members, members twice: refused, and nothing is written beside the store."""
        before = sorted(tmp_path.parent.rglob("*"))
        for name in ("../../evil.sh", "/etc/passwd", "templates/../x.jsonl", "templates/1.jsonl", "extra.txt"):
            await _refused(
                gallery, transfer, rewritten(file, tmp_path / "bad.zip", lambda members, name=name: members.update({name: b"x"}))
            )
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            for name, data in members_of(file).items():
                archive.writestr(name, data)
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("vectors/000000.f32", b"")
        await _refused(gallery, transfer, tmp_path / "bad.zip")
        (tmp_path / "bad.zip").unlink()
        assert sorted(tmp_path.parent.rglob("*")) == before

    async def test_bombs(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """Compressed members, members that share bytes, and directories without end are refused before they are read."""
        members = members_of(file)
        await _refused(gallery, transfer, write(tmp_path / "packed.zip", members, compression=zipfile.ZIP_DEFLATED))
        members["crops/000000.bin"] = bytes(70 * 1024 * 1024)
        await _refused(gallery, transfer, write(tmp_path / "large.zip", members))
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**9, 10**9, 46, 0)
        (tmp_path / "many.zip").write_bytes(end64 + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + end)
        assert isinstance(await _refused(gallery, transfer, tmp_path / "many.zip"), InputTooLarge)
        (tmp_path / "overlap.zip").write_bytes(_overlapping(file))
        await _refused(gallery, transfer, tmp_path / "overlap.zip")

    @pytest.mark.parametrize(
        ("member", "change"),
        [
            ("templates/000001.jsonl", lambda data: data.replace(b'"quality":', b'"extra":1,"quality":', 1)),
            ("templates/000001.jsonl", lambda data: data.replace(b'"norm":', b'"norm":NaN,"x":', 1)),
            ("templates/000001.jsonl", lambda data: data.replace(b'"id":"t', b'"id":"0', 1)),
            ("templates/000001.jsonl", lambda data: data.replace(b'"identity_id":"p1', b'"identity_id":"q1', 1)),
            ("templates/000001.jsonl", lambda data: data + data.splitlines()[-1] + b"\n"),
            ("templates/000001.jsonl", lambda _: b""),
            ("templates/000001.jsonl", lambda _: b"{}\n" * 10_001),
            ("vectors/000001.f32", lambda data: data[:-4]),
            ("vectors/000001.f32", lambda data: np.full(len(data) // 4, np.nan, "<f4").tobytes()),
            ("vectors/000001.f32", lambda data: bytes(len(data))),
            ("crops/000001.bin", lambda data: data + b"x"),
        ],
    )
    async def test_a_forged_file_imports_whole_pages_at_most(
        self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path, member: str, change: Callable[[bytes], bytes]
    ) -> None:
        """With a manifest that fits, bad lines and vectors are refused; what was imported before them is whole."""

        def forge(members: dict[str, bytes]) -> None:
            assert change(members[member]) != members[member]
            members[member] = change(members[member])

        with pytest.raises(InvalidInput):
            await transfer.import_file(rewritten(file, tmp_path / "forged.zip", forge), collection="copy")
        people, records = await contents(gallery, "copy")
        assert len(people) == PEOPLE
        assert records == (await contents(gallery, "staff"))[1][:200]
        report = await transfer.import_file(file, collection="copy", clash=Clash.SKIP)
        assert report.templates_added == 2 * PEOPLE - 200
        assert await contents(gallery, "copy") == await contents(gallery, "staff")

    async def test_a_missing_page_is_noticed(self, gallery: Gallery, transfer: Transfer, file: Path, tmp_path: Path) -> None:
        """A file without one of its pages, manifest made to fit, does not pass for whole."""
        for gone in ("templates/000002.jsonl", "vectors/000001.f32", "identities/000001.jsonl"):

            def drop(members: dict[str, bytes], gone: str = gone) -> None:
                del members[gone]

            with pytest.raises(InvalidInput):
                await transfer.import_file(rewritten(file, tmp_path / "short.zip", drop), collection="copy", clash=Clash.SKIP)


async def _refused(gallery: Gallery, transfer: Transfer, path: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        await transfer.import_file(path, collection="copy")
    with pytest.raises(NotFound):
        await gallery.collection("copy")
    return caught.value


def _overlapping(file: Path) -> bytes:
    """The archive with every member of its directory but the manifest pointing at one and the same large member."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        large = max(infos, key=lambda info: info.file_size)
        for info in infos:
            if info.filename != "manifest.json":
                info.header_offset, info.file_size, info.compress_size, info.CRC = (
                    large.header_offset,
                    large.file_size,
                    large.compress_size,
                    large.CRC,
                )
        path = file.with_name("rewritten.zip")
        path.write_bytes(file.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for info in archive.infolist():
            source = next(one for one in infos if one.filename == info.filename)
            info.header_offset, info.file_size, info.compress_size, info.CRC = (
                source.header_offset,
                source.file_size,
                source.compress_size,
                source.CRC,
            )
        archive._didModify = True
    return path.read_bytes()

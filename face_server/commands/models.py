"""`face-server models`: what networks exist, fetching them, adding your own, checking files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from face_server.commands.options import Data, Json, load_settings
from face_server.commands.terminal import SOME_FAILED, complain, err, out, print_json, print_table
from face_server.errors import InvalidInput, WeightsError
from face_server.models.catalog import READY_DEFAULTS, CatalogEntry
from face_server.models.export.options import Device, ExportOptions, Pack, Platform
from face_server.models.export.repository import ExportedModel, export
from face_server.models.weights import WeightsState, WeightsStatus, WeightsStore

models = typer.Typer(help="Networks: what exists, fetch, add, verify.", no_args_is_help=True)

_COLOURS = {WeightsState.READY: "green", WeightsState.MISSING: "dim", WeightsState.CORRUPT: "red"}


@models.command("list")
def list_models(data: Data = None, as_json: Json = False) -> None:
    """List every network: its task, what is on disk, its licence."""
    statuses = _store(data).list()
    if as_json:
        print_json([_described(status) for status in statuses])
        return
    header = ("name", "task", "state", "commercial use", "licence")
    entries = [status.entry for status in statuses]
    uses = ["yes" if entry.commercial_use else "no" for entry in entries]
    rows = [(entry.name, entry.task, status.state, use, entry.licence) for entry, status, use in zip(entries, statuses, uses, strict=True)]
    print_table(header, rows, [_COLOURS[status.state] for status in statuses])


@models.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Networks to fetch; the defaults if none is named.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch networks, check their digests and prepare them. What is there already is only checked."""
    store = _store(data)
    entries = [store.entry(name) for name in dict.fromkeys(names or READY_DEFAULTS)]
    failures: dict[str, str] = {}
    columns = (TextColumn("{task.description:<28}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, disable=as_json or not err.is_terminal) as bar:
        for entry in entries:
            failure = _pull_one(store, entry, bar)
            if failure is not None:
                failures[entry.name] = failure
                complain(failure)
            elif not as_json:
                out.print(f"{entry.name:<24} ready ({entry.licence})")
    if as_json:
        print_json([{"name": entry.name, "ready": entry.name not in failures, "error": failures.get(entry.name)} for entry in entries])
    if failures:
        raise typer.Exit(SOME_FAILED)


@models.command()
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A network of the catalogue, or a new name (lower case).", show_default=False)
    ],
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The ONNX file.", exists=True, dir_okay=False)],
    family: Annotated[str | None, typer.Option("--family", help="How to read its tensors; for a new name.", show_default=False)] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the weights; for a new name.", show_default=False)] = None,
    commercial_use: Annotated[bool, typer.Option("--commercial-use", help="The licence allows commercial use; for a new name.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Add weights of your own: a file that the catalogue knows but nobody may hand out, or a new network of a known family."""
    store = _store(data)
    if name in store.catalog:
        if family or licence or commercial_use:
            raise InvalidInput(f"{name} is in the catalogue, which states its family and licence; leave those options out", field="family")
        store.install(name, file)
    elif family is None:
        raise InvalidInput(f"{name} is not in the catalogue; say how to read it with --family", field="family")
    else:
        store.add(name, file, family, licence=licence or "unknown", commercial_use=commercial_use)
    entry = store.entry(name)
    if as_json:
        print_json(_described(WeightsStatus(entry, WeightsState.READY)))
    else:
        out.print(f"{name:<24} ready ({entry.licence})")


@models.command()
def verify(data: Data = None, as_json: Json = False) -> None:
    """Check every file on disk against its digest."""
    faulty = _store(data).verify()
    if as_json:
        print_json([_described(status) for status in faulty])
    for status in faulty:
        complain(status.reason)
    if faulty:
        raise typer.Exit(SOME_FAILED)
    if not as_json:
        out.print("every model file on disk is the published one", style="green")


@models.command("export")
def export_models(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model repository; made if it is not there.", show_default=False)],
    to: Annotated[Platform, typer.Option("--to", help="What runs the networks.", show_default=False)],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="NAME,…", help="Networks to write; all whose weights are here if none is named.", show_default=False
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="NAME", help="Detector of the pipelines: the service's own if unset.", show_default=False),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option("--embedder", metavar="NAME", help="Embedder of the pipelines: the service's own if unset.", show_default=False),
    ] = None,
    pack: Annotated[
        list[str] | None,
        typer.Option(
            "--pack",
            metavar="PACK,…",
            help="Models for clients of other systems: face_server, mtcnn, deepstream or all.",
            show_default=False,
        ),
    ] = None,
    facenet: Annotated[
        Path | None,
        typer.Option("--facenet", metavar="FILE", help="Your own FaceNet (ONNX), for the pack mtcnn.", exists=True, dir_okay=False),
    ] = None,
    on_cpu: Annotated[
        bool | None, typer.Option("--cpu/--gpu", help="Where networks run; the platform decides if unset.", show_default=False)
    ] = None,
    instances: Annotated[int, typer.Option("--instances", min=0, max=64, help="Copies of each model; 0 for the defaults.")] = 0,
    max_batch: Annotated[int, typer.Option("--max-batch", min=0, help="Largest batch of a network; 0 for the defaults.")] = 0,
    bls: Annotated[
        bool | None,
        typer.Option(
            "--bls/--no-bls",
            help="Whether pipelines call the networks of the server; by default they do but where networks are Python models on the CPU.",
            show_default=False,
        ),
    ] = None,
    frame: Annotated[str, typer.Option("--frame", metavar="WxH", help="Size of the frames of face_ensemble.")] = "640x640",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder, and over models, that no export made.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a model repository for a Triton server: configurations, weights and the server-side pipelines."""
    settings = load_settings(data=data)
    options = ExportOptions(
        platform=to,
        models=tuple(_listed(names)),
        detector=detector or settings.models.detector,
        embedder=embedder or settings.models.embedder,
        packs=_packs(_listed(pack)),
        device=Device.AUTO if on_cpu is None else Device.CPU if on_cpu else Device.GPU,
        instances=instances,
        max_batch=max_batch,
        facenet=facenet,
        frame_size=_size(frame),
        max_bytes=settings.images.max_bytes,
        max_pixels=settings.images.max_pixels,
        bls=bls,
        force=force,
    )
    written = export(WeightsStore(settings.weights_folder, settings.models_path), folder, options)
    if as_json:
        print_json(written)
        return
    rows = [(model.name, model.state, "yes" if model.commercial_use else "no", model.licence, model.remark) for model in written]
    print_table(("model", "state", "commercial use", "licence", "remark"), rows, [_style(model) for model in written])


def _store(data: Path | None) -> WeightsStore:
    settings = load_settings(data=data)
    return WeightsStore(settings.weights_folder, settings.models_path)


def _pull_one(store: WeightsStore, entry: CatalogEntry, bar: Progress) -> str | None:
    task = bar.add_task(entry.name, total=entry.size_bytes)

    def show(stage: str, done_bytes: int, total_bytes: int) -> None:
        bar.update(task, description=f"{entry.name}: {stage}", completed=done_bytes, total=total_bytes)

    try:
        store.pull(entry.name, show)
    except WeightsError as error:
        return error.message
    return None


def _described(status: WeightsStatus) -> dict[str, object]:
    entry = status.entry
    return {
        "name": entry.name,
        "task": entry.task,
        "family": entry.family,
        "state": status.state,
        "reason": status.reason,
        "licence": entry.licence,
        "commercial_use": entry.commercial_use,
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
    }


def _listed(values: list[str] | None) -> list[str]:
    """What was named, by commas or by repeating the option, each once."""
    return list(dict.fromkeys(name for value in values or [] for name in value.split(",") if name))


def _packs(names: list[str]) -> frozenset[Pack]:
    if "all" in names:
        return frozenset(Pack)
    unknown = sorted(set(names) - set(Pack))
    if unknown:
        raise InvalidInput(f"there is no pack {unknown[0]!r}; there are {', '.join(Pack)} and all", field="pack")
    return frozenset(map(Pack, names))


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise InvalidInput(f"{text!r} is no size of frames; write width x height, such as 640x480", field="frame")
    return int(width), int(height)


def _style(model: ExportedModel) -> str:
    return "yellow" if model.remark.startswith("configuration only") else "dim" if model.state == "unchanged" else ""

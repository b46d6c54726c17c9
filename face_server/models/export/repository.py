"""The whole of a model repository: which models there are, and their folders on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from face_server.domain.network import served_name
from face_server.errors import ConfigurationError, Conflict, WeightsError
from face_server.models.catalog import CatalogEntry
from face_server.models.contract import Task
from face_server.models.export import packs
from face_server.models.export.folder import ModelFolder, only_writer, require_repository, write_model
from face_server.models.export.mtcnn import STAGES
from face_server.models.export.networks import catalogue_model
from face_server.models.export.options import ExportOptions, Pack
from face_server.models.export.pipelines import Called, pipeline_models
from face_server.models.weights import WeightsState, WeightsStore


class ModelState(StrEnum):
    """What became of a model."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model of the repository: its licence, empty without weights of its own, and what its user must know or do."""

    name: str
    state: ModelState
    licence: str
    commercial_use: bool
    remark: str = ""


@dataclass(frozen=True, slots=True)
class _Planned:
    folder: ModelFolder
    licence: str = ""
    commercial_use: bool = True
    remark: str = ""


def export(store: WeightsStore, folder: Path, options: ExportOptions) -> list[ExportedModel]:
    """Write the models of ``options`` into the repository ``folder``; other models in it are left alone.

    Everything is made before anything is written. What is there already, byte by byte, is not
    touched. Blocks. Raises Conflict for a folder that holds something else or is being written, and
    for two models of one name, WeightsError for weights that are not here, NotFound for unknown
    networks, ConfigurationError for networks in the wrong role.
    """
    require_repository(folder, force=options.force)
    planned = list(_models(store, options))
    names = [one.folder.name for one in planned]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Conflict(f"two models would be called {twice[0]}; name those to write with --models, or add the network under another name")
    with only_writer(folder):
        return [
            ExportedModel(
                one.folder.name,
                ModelState.WRITTEN if write_model(folder, one.folder, force=options.force) else ModelState.UNCHANGED,
                one.licence,
                one.commercial_use,
                one.remark,
            )
            for one in planned
        ]


def _models(store: WeightsStore, options: ExportOptions) -> Iterator[_Planned]:
    detector = _called(store, options.detector, Task.DETECTOR)
    embedder = _called(store, options.embedder, Task.EMBEDDER)
    here = {name: Called(store.entry(name), store.network(name)) for name in options.models or _ready(store)}
    called = {one.entry.name: one for one in (detector, embedder)}
    scrfd = _scrfd(store, detector) if Pack.FACE_SERVER in options.packs else None
    if scrfd is not None:
        called[scrfd.entry.name] = scrfd
    for one in {**here, **called}.values():
        yield _of(one.entry, catalogue_model(one.entry, one.network, options))
    both = _joined(detector.entry, embedder.entry)
    for model in pipeline_models(detector, embedder, options):
        yield replace(both, folder=model)
    if scrfd is not None:
        yield _of(scrfd.entry, packs.ensemble_scrfd(scrfd, options))
        yield _face_recog(store, embedder, options)
    if Pack.MTCNN in options.packs:
        for model, stage in zip(packs.mtcnn_models(store.folder / "mtcnn", store.search_paths, options), STAGES, strict=True):
            yield _of(stage.entry, model)
        missing = "" if options.facenet else "configuration only: give your own file with --facenet FILE"
        yield _Planned(packs.facenet(options), "unknown", False, missing)
    if Pack.DEEPSTREAM in options.packs:
        entry = store.entry(packs.CENTERFACE)
        yield _of(entry, packs.centerface(entry, store.published(entry.name), options))


def _face_recog(store: WeightsStore, embedder: Called, options: ExportOptions) -> _Planned:
    planned = _of(embedder.entry, packs.face_recog(embedder, store.published(embedder.entry.name), options))
    dimension = embedder.network.outputs[0].shape[-1]
    if dimension == packs.EXPECTED_DIMENSION:
        return planned
    return replace(planned, remark=f"gives {dimension} values a face; clients that count on 512 need an --embedder of that many")


def _scrfd(store: WeightsStore, detector: Called) -> Called:
    """The detector if it is an SCRFD, else the first one whose weights are here."""
    if detector.entry.family == "scrfd":
        return detector
    ready = [name for name in _ready(store) if store.entry(name).family == "scrfd"]
    if not ready:
        raise WeightsError(
            f"{packs.ENSEMBLE_SCRFD} needs the weights of an SCRFD network: face-server models add scrfd_500m --file scrfd_500m.onnx"
        )
    return _called(store, ready[0], Task.DETECTOR)


def _ready(store: WeightsStore) -> list[str]:
    return [status.entry.name for status in store.list() if status.state is WeightsState.READY]


def _called(store: WeightsStore, name: str, task: Task) -> Called:
    entry = store.entry(name)
    if entry.task is not task:
        raise ConfigurationError(f"{name} is no {task.value}")
    return Called(entry, store.network(name))


def _of(entry: CatalogEntry, folder: ModelFolder) -> _Planned:
    name = served_name(entry.name)
    remark = f"the network {entry.name}" if name == folder.name != entry.name else ""
    return _Planned(folder, entry.licence, entry.commercial_use, remark)


def _joined(detector: CatalogEntry, embedder: CatalogEntry) -> _Planned:
    licences = ", ".join(dict.fromkeys((detector.licence, embedder.licence)))
    return _Planned(ModelFolder("", {}), licences, detector.commercial_use and embedder.commercial_use)

"""`face-server check`: load everything, serve nothing, say what works and what is fastest."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import typer

from face_server.app import open_services
from face_server.backends.onnx import OnnxOptions
from face_server.backends.survey import SurveyRow, open_candidates, survey, verdict
from face_server.commands.options import Data, Json, load_settings
from face_server.commands.terminal import SOME_FAILED, complain, err, out, print_json, print_table
from face_server.domain.ports import AnalysisOptions
from face_server.models.weights import WeightsStore
from face_server.pipeline.self_test import self_test
from face_server.settings import Settings
from face_server.workers import Workers


def check(data: Data = None, as_json: Json = False) -> None:
    """Load everything, serve nothing, test itself on a generated picture, and find the fastest backend."""
    settings = load_settings(data=data, allow_anonymous=True)
    report = asyncio.run(_loaded(settings))
    with err.status("Comparing backends"):
        rows = asyncio.run(_survey(settings))
    if as_json:
        print_json({**report, "backends": [asdict(row) for row in rows], "fastest": rows[0].backend})
    else:
        _print(report, rows, settings)
    if report["fault"] is not None:
        complain(f"the self-test failed: {report['fault']}")
        raise typer.Exit(SOME_FAILED)


async def _loaded(settings: Settings) -> dict[str, Any]:
    async with open_services(settings) as services:
        options = AnalysisOptions(services.defaults.min_score, services.defaults.max_size_px)
        return {
            "version": services.version,
            "data": str(settings.data.resolve()),
            "backend": services.backend.description,
            "models": [asdict(services.detector), asdict(services.embedder)],
            "collections": [
                {"name": one.name, "model": str(one.model), "identities": one.identities, "templates": one.templates}
                for one in await services.gallery.collections()
            ],
            "fault": await self_test(services.analyzer, options),
        }


async def _survey(settings: Settings) -> list[SurveyRow]:
    store = WeightsStore(settings.weights_folder, settings.models_path)
    networks = [store.network(name) for name in (settings.models.detector, settings.models.embedder)]
    with Workers(settings.inference.workers or None) as workers:
        options = OnnxOptions(settings.inference.providers, settings.inference.require_gpu)
        candidates = await open_candidates(networks, workers, options)
        try:
            return await survey(candidates, networks, concurrency=workers.threads)
        finally:
            for backend in candidates.values():
                await backend.close()


def _print(report: dict[str, Any], rows: list[SurveyRow], settings: Settings) -> None:
    out.print(f"face_server {report['version']}, data in {report['data']}", style="bold")
    out.print(f"backend   {report['backend']}")
    for model in report["models"]:
        use = "" if model["commercial_use"] else ", no commercial use"
        out.print(f"{model['task']:<9} {model['name']} ({model['licence']}{use})")
    for one in report["collections"]:
        out.print(f"gallery   {one['name']}: {one['identities']} people, {one['templates']} templates")
    if report["fault"] is None:
        out.print("self-test passed", style="green")
    header = ("backend", *(f"{name}, 1/s" for name in rows[0].rates), "together", "runs on")
    cells = [(row.backend, *(f"{rate:.1f}" for rate in row.rates.values()), f"{row.ratio:.2f} ×", row.description) for row in rows]
    print_table(header, cells)
    out.print(verdict(rows), style="bold")
    if settings.inference.backend.startswith("triton"):
        out.print("These ran in this process; Triton was tested, not measured.")
    elif rows[0].backend != settings.inference.backend:
        out.print(f"To use it: FACE_SERVER_INFERENCE__BACKEND={rows[0].backend}")

"""The documentation against the code it documents."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from face_server.cli import cli
from face_server.domain.quality import Reason
from face_server.settings import variables

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def load_generator():
    """docs/generate.py as a module."""
    specification = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("part", sorted(GENERATOR.PARTS))
def test_generated_parts_are_current(part, monkeypatch):
    """Settings, catalogue and endpoints stand in the pages as the code has them; `make docs` writes them anew."""
    for variable in variables():
        monkeypatch.delenv(variable, raising=False)
    page, text = GENERATOR.render(part)
    assert page.read_text(encoding="utf-8") == text


def test_every_command_is_on_its_page():
    """The page of the command line names each command."""
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    for command in cli.registered_commands:
        assert f"`{command.name}`" in page or f"`{command.name} " in page or f"`{command.name}`" in page, command.name
    for group in cli.registered_groups:
        for command in group.typer_instance.registered_commands:
            assert (command.name or command.callback.__name__) in page


def test_every_reason_of_the_gate_is_explained():
    """The table of reasons in Concepts is the code's list."""
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    explained = {name for row in re.findall(r"^\| (`[a-z_`, ]+`) \|", page, re.MULTILINE) for name in re.findall(r"`([a-z_]+)`", row)}
    assert {reason.value for reason in Reason} <= explained


def test_variables_named_in_pages_exist():
    """No page names a setting that there is none of."""
    known = variables()
    pages = [*DOCS.glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]
    for page in pages:
        for variable in re.findall(r"FACE_SERVER_[A-Z0-9_]+", page.read_text(encoding="utf-8")):
            assert variable in known, f"{page.name}: {variable}"


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    """Mkdocs builds without a warning; no page refers to a script, style, font or picture of another host."""
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list(DOCS.glob("*.md")))
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|source)[^>]+src=\"([^\"]+)\"|<link[^>]+href=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        )
        elsewhere = [address for pair in loaded for address in pair if address.startswith(("http:", "https:", "//"))]
        assert elsewhere == [], page.name

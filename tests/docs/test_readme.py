"""The README's promises, tried."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block(language, containing):
    """The one block of that language that holds a text."""
    (found,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return found


@pytest.fixture
def photo(tmp_path, shared):
    """A folder with photo.jpg and a people folder, as the README assumes."""
    shutil.copy(shared / "data/photos/scenes/obama_and_biden.jpg", tmp_path / "photo.jpg")
    for person in ("obama", "biden"):
        shutil.copytree(shared / "data/photos/people" / person, tmp_path / "people" / person)
    return tmp_path


def test_it_is_short():
    """At most 150 lines."""
    assert len(README.splitlines()) <= 150


def test_its_links_lead_somewhere():
    """Every relative link is a file, and a heading of it where the link names one."""
    for target in re.findall(r"\]\(([^)]+)\)", README):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        headings = [
            re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line.startswith("#")
        ]
        assert not anchor or anchor in headings, target


def test_its_make_targets_exist():
    """What the README tells to type is what make knows."""
    known = subprocess.run(["make", "-C", str(REPOSITORY), "help"], capture_output=True, text=True, check=True).stdout
    typed = {
        word for line in re.findall(r"make ([a-z -]+)`|^make ([a-z -]+)$", README, re.MULTILINE) for part in line for word in part.split()
    }
    assert {"setup", "run", "test", "check", "help"} <= typed
    for target in typed:
        assert f"make {target} " in known, target


def test_its_curl_finds_the_faces(photo, server):
    """The command line, pasted into a shell, prints InsightFace-REST's answer."""
    script = block("sh", "curl").replace("http://127.0.0.1:18081", server.address)
    ended = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=photo, capture_output=True, text=True, check=True)
    assert ended.stdout.count('"vec"') == 3


def test_its_python_finds_the_faces(photo, server):
    """The snippet, run as it stands, prints a line a face with the length of its vector."""
    script = block("python", "httpx").replace("http://127.0.0.1:18081", server.address)
    ended = subprocess.run([sys.executable, "-c", script], cwd=photo, capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.endswith(" 128") for line in lines)


def test_its_three_lines_recognise_people(photo, data, face_server):
    """Enrolling and identifying with the README's lines names both people of the photo."""
    lines = block("sh", "enroll").replace("source .venv/bin/activate\n", "")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = face_server.environment(FACE_SERVER_DATA=str(data), PATH=path)
    # enroll ends with 1 where it refused a photo; the README's reader sees that and goes on.
    ended = subprocess.run(["bash", "-c", lines], cwd=photo, capture_output=True, text=True, check=True, env=environment)
    assert "  obama (similarity" in ended.stdout
    assert "  biden (similarity" in ended.stdout

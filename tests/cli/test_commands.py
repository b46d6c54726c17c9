"""The commands that need no pictures, and how they end."""

from __future__ import annotations

import json
import subprocess

import pytest

from face_server import __version__
from face_server.cli import run
from face_server.settings import variables


def test_without_arguments_it_explains_itself(face_server):
    """The bare command and --help list every command; --version is the package's."""
    listed = face_server("--help").out
    commands = "serve check config models extract enroll identify openapi keys export import"
    for name in commands.split():
        assert f"  {name}" in listed, name
    assert face_server("--version").out.strip() == f"face-server {__version__}"


def test_the_installed_script_ends_as_the_function_does(face_server):
    """The script on the PATH passes on what is printed, and the exit code."""
    line, environment = face_server.line("config", "--json"), face_server.environment(FACE_SERVER_PORT="1234")
    ended = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(ended.stdout)["port"] == 1234
    environment = face_server.environment(FACE_SERVER_PROT="1")
    refused = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)


def test_an_unknown_variable_is_refused_in_one_line(face_server):
    """A misspelt setting ends any command with 2 and its name."""
    ended = face_server("config", FACE_SERVER_PROT="1")
    assert (ended.code, ended.out) == (2, "")
    assert "FACE_SERVER_PROT" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_bad_value_is_refused_in_one_line(face_server):
    """A value out of bounds names its variable."""
    ended = face_server("config", FACE_SERVER_IMAGES__MAX_BYTES="7")
    assert ended.code == 2
    assert "FACE_SERVER_IMAGES__MAX_BYTES" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_config_shows_what_is_in_effect(face_server, tmp_path):
    """Variables and options arrive in the settings; every variable is listed for people."""
    effective = face_server(
        "config", "--json", "--data", tmp_path, FACE_SERVER_PORT="1234", FACE_SERVER_HTTP__CORS_ORIGINS="https://a, https://b"
    ).json
    assert (effective["port"], effective["data"]) == (1234, str(tmp_path))
    assert effective["http"]["cors_origins"] == ["https://a", "https://b"]


def test_config_for_people_is_a_file_of_variables(face_server):
    """Every variable stands there, and setting them all to what is printed changes nothing."""
    lines = face_server("config", FACE_SERVER_HTTP__CORS_ORIGINS="https://a,https://b").out.splitlines()
    assert {line.lstrip("#").partition("=")[0] for line in lines if not line.startswith("# ")} == set(variables())
    printed = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert face_server("config", **printed).out.splitlines() == lines


def test_openapi_prints_the_document(face_server):
    """The document comes without weights or a data folder, and holds both kinds of endpoints."""
    document = face_server("openapi").json
    assert document["openapi"].startswith("3.")
    assert {"/extract", "/v1/collections/{collection}/identify"} <= document["paths"].keys()


def test_models_list_and_verify(data, face_server):
    """Installed networks are ready, others missing with advice, and every one states its licence."""
    listed = {one["name"]: one for one in face_server("models", "list", "--data", data, "--json").json}
    assert [listed[name]["state"] for name in ("yunet", "centerface", "sface")] == ["ready"] * 3
    assert all(one["licence"] for one in listed.values())
    assert face_server("models", "verify", "--data", data).code == 0


def test_models_pull_is_idempotent(data, face_server):
    """Pulling what is there only checks it."""
    ended = face_server("models", "pull", "--data", data)
    assert ended.code == 0
    assert [line.split()[:2] for line in ended.out.splitlines()] == [["yunet", "ready"], ["centerface", "ready"], ["sface", "ready"]]


def test_altered_weights_are_noticed(tmp_path, face_server, shared):
    """Verify names both digests of a file that was altered, and ends with 1."""
    added = face_server("models", "add", "scrfd_500m", "--file", shared / "models/scrfd_500m.onnx", "--data", tmp_path)
    assert added.code == 0, added.err
    file = tmp_path / "models/scrfd_500m/weights.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    ended = face_server("models", "verify", "--data", tmp_path)
    assert ended.code == 1
    assert "expected sha256 5e4447f5" in ended.err


def test_models_add_takes_files_of_the_catalogue_and_of_your_own(tmp_path, face_server, shared):
    """The wrong file is refused by digest; a new name needs a family and carries its licence."""
    other = shared / "models/scrfd_2.5g.onnx"
    wrong = face_server("models", "add", "scrfd_500m", "--file", other, "--data", tmp_path)
    assert wrong.code == 2
    assert "expected sha256 5e4447f5" in wrong.err
    unnamed = face_server("models", "add", "mine", "--file", other, "--data", tmp_path)
    assert unnamed.code == 2
    assert "--family" in unnamed.err
    options = ("--family", "scrfd", "--licence", "mine alone", "--commercial-use")
    assert face_server("models", "add", "mine", "--file", other, *options, "--data", tmp_path).code == 0
    listed = {one["name"]: one for one in face_server("models", "list", "--data", tmp_path, "--json").json}
    assert (listed["mine"]["state"], listed["mine"]["licence"], listed["mine"]["commercial_use"]) == ("ready", "mine alone", True)


def test_check_tests_itself_and_names_the_fastest_backend(data, face_server):
    """Everything loads, the self-test passes, every installed backend is measured against the slowest."""
    report = face_server("check", "--data", data, "--json").json
    assert report["fault"] is None
    assert [model["name"] for model in report["models"]] == ["yunet", "sface"]
    ratios = [row["ratio"] for row in report["backends"]]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == 1.0
    assert report["fastest"] == report["backends"][0]["backend"]


def test_check_without_weights_says_what_to_do(tmp_path, face_server):
    """Nothing is loaded from an empty folder; the sentence names the command."""
    ended = face_server("check", "--data", tmp_path)
    assert ended.code == 2
    assert "face-server models pull" in ended.err


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys, weights):
    """A data folder inside a file is a configuration error."""
    (tmp_path / "file").write_text("")
    assert run(["models", "pull", "yunet", "--data", str(tmp_path / "file/data")]) != 0
    complaint = capsys.readouterr().err
    assert len(complaint.splitlines()) == 1
    assert "Traceback" not in complaint


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--port", "99999"], ["keys", "create"], ["models", "pull", "nobody"]])
def test_wrong_use_ends_with_2(arguments, capsys):
    """Usage errors are one line on stderr and code 2."""
    assert run(arguments) == 2
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.startswith("face-server: ")
    assert len(ended.err.splitlines()) == 1

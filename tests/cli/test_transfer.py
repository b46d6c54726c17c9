"""A collection out of one data folder and into another, by command."""

from __future__ import annotations


def test_an_export_carries_people_to_another_folder(enrolled, data, face_server, shared, tmp_path):
    """Whoever was enrolled there is recognised here; importing again is refused, or skips."""
    source, _ = enrolled
    file = tmp_path / "staff.faces"
    written = face_server("export", file, "--data", source, "--json").json
    assert written["templates"] >= 15
    made = face_server("import", file, "--collection", "staff", "--data", data, "--json").json
    assert (made["created"], made["templates_added"]) == (True, written["templates"])
    scene = shared / "data/photos/scenes/obama1.jpg"
    answer = face_server("identify", scene, "--collection", "staff", "--data", data, "--json").json
    assert answer["images"][0]["faces"][0]["match"]["identity"]["name"] == "obama"
    again = face_server("import", file, "--collection", "staff", "--data", data)
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    skipped = face_server("import", file, "--collection", "staff", "--clash", "skip", "--data", data, "--json").json
    assert (skipped["templates_added"], skipped["templates_skipped"]) == (0, written["templates"])


def test_what_cannot_be_moved_is_one_sentence(tmp_path, face_server):
    """No gallery, an unknown collection, a file of something else: code 2, one line, nothing made."""
    nothing = face_server("export", tmp_path / "x", "--data", tmp_path / "nowhere")
    (tmp_path / "text").write_text("not an export")
    other = face_server("import", tmp_path / "text", "--data", tmp_path / "data")
    unknown = face_server("export", tmp_path / "x", "--collection", "nobody", "--data", tmp_path / "data")
    for ended in (nothing, other, unknown):
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1), ended
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "x").exists()

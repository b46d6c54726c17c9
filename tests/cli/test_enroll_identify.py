"""A folder of people in, names on faces out."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest


def names(answer, file_name):
    """The names (None for unknown) of the faces of one file of an answer of identify."""
    (picture,) = [picture for picture in answer["images"] if picture["file"].endswith(file_name)]
    return [face["match"] and face["match"]["identity"]["name"] for face in picture["faces"]]


def test_a_folder_of_people_is_enrolled_with_a_line_for_every_photo(enrolled, shared):
    """Every photo is reported once; every person gets at least one template; what is refused says why."""
    _, ended = enrolled
    report = ended.json
    photos = sorted(path for path in (shared / "data/photos/people").rglob("*") if path.is_file())
    assert sorted(one["file"] for one in report["files"]) == [str(path) for path in photos]
    enrolled_people = {one["person"] for one in report["files"] if one["status"] == "enrolled"}
    # The embeddings of these two are nearer than a small gallery allows: whoever comes second is a conflict.
    assert {path.parent.name for path in photos} - enrolled_people <= {"angelina_jolie", "kate_siegel"}
    reasons = {one["file"].rpartition("people/")[2]: one["reasons"] for one in report["files"] if one["status"] == "refused"}
    assert reasons.pop("biden/biden2.jpg") == ["multiple_faces"]
    assert set(map(tuple, reasons.values())) <= {("identity_conflict",)}
    assert report["enrolled"] + report["refused"] == len(photos)
    assert ended.code == 1
    assert "Traceback" not in ended.err


def test_scenes_are_named_right_and_strangers_stay_unknown(enrolled, face_server, shared):
    """Known people get their names among others, and nobody else gets one."""
    data, _ = enrolled
    scenes = shared / "data/photos/scenes"
    ended = face_server("identify", *sorted(scenes.iterdir()), "--data", data, "--json")
    assert ended.code == 0, ended.err
    answer = ended.json
    assert sorted(names(answer, "obama_and_biden.jpg"), key=str) == [None, "biden", "obama"]
    assert names(answer, "obama1.jpg") == ["obama"]
    assert set(names(answer, "alex_lacamoire1.jpg")) == {"alex_lacamoire"}
    assert {"kit_harington", "rose_leslie"} == set(names(answer, "kit_with_rose.jpg"))
    friends = names(answer, "friends_six_faces.jpg")
    assert len(friends) == 6
    assert set(friends) <= {None, "paul_rudd"}


def test_identify_speaks_to_people(enrolled, face_server, shared):
    """Without --json there is a line a face, with a name or with unknown and the reason."""
    data, _ = enrolled
    scenes = shared / "data/photos/scenes"
    ended = face_server("identify", scenes / "obama_and_biden.jpg", scenes / "friends_six_faces.jpg", "--data", data)
    assert ended.code == 0
    assert "obama_and_biden.jpg: 3 faces" in ended.out
    assert "  obama (similarity 0." in ended.out
    assert "  unknown (nearest similarity 0." in ended.out


def test_a_second_run_enrols_nothing(data, face_server, shared, tmp_path):
    """What is enrolled is skipped by the digest of its file, even under another file name."""
    people = tmp_path / "people"
    for person in ("biden", "kate_siegel"):
        shutil.copytree(shared / "data/photos/people" / person, people / person)
    first = face_server("enroll", people, "--data", data, "--json").json
    (people / "kate_siegel/1.jpg").rename(people / "kate_siegel/renamed.jpg")
    second = face_server("enroll", people, "--data", data, "--json")
    assert first["enrolled"] == 2
    assert (second.json["enrolled"], second.json["skipped"]) == (0, first["enrolled"])
    templates = {one["template_id"] for one in first["files"]} - {None}
    assert templates == {one["template_id"] for one in second.json["files"]} - {None}


def test_refusals_are_reported_and_can_be_overridden(data, face_server, shared, tmp_path):
    """A picture of two, one of nobody and a broken file each say what is wrong; --override takes the first only."""
    people = tmp_path / "people"
    (people / "Ada").mkdir(parents=True)
    shutil.copy(shared / "data/photos/scenes/obama_and_biden.jpg", people / "Ada/two.jpg")
    (people / "notes.txt").write_text("not a picture")
    (people / "Broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (people / "Nobody.png").write_bytes(blank_png())
    ended = face_server("enroll", people, "--data", data, "--json")
    assert ended.code == 1
    status = {one["person"]: (one["status"], one["reasons"]) for one in ended.json["files"]}
    assert status["Ada"] == ("refused", ["multiple_faces"])
    assert status["Nobody"] == ("refused", ["no_face"])
    assert status["Broken"] == ("failed", ["invalid_image"])
    assert ended.json["left_out"] == [str(people / "notes.txt")]
    text = face_server("enroll", people, "--data", data, "--override")
    assert text.code == 1
    assert "enrolled  " in text.out
    assert "two.jpg as Ada: in spite of multiple_faces" in text.out
    assert "Nobody.png as Nobody: no face was found in the picture" in text.out


def test_a_photo_is_a_person_named_by_its_file(data, face_server, shared, tmp_path):
    """A picture directly in the folder enrols its file name, in any script; another collection keeps apart."""
    shutil.copy(shared / "data/photos/people/biden/biden.jpg", tmp_path / "张三.jpg")
    ended = face_server("enroll", tmp_path, "--collection", "visitors", "--data", data, "--json")
    assert (ended.code, ended.json["collection"]) == (0, "visitors")
    scene = shared / "data/photos/people/biden/biden.jpg"
    assert names(face_server("identify", scene, "--collection", "visitors", "--data", data, "--json").json, ".jpg") == ["张三"]
    assert names(face_server("identify", scene, "--data", data, "--json").json, ".jpg") == [None]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("enroll", "{tmp}/nowhere"), "is not a folder"),
        (("enroll", "{tmp}"), "holds no pictures"),
        (("identify", "{tmp}/x.jpg", "--collection", "nobody"), "nobody"),
        (("identify",), "Missing argument"),
        (("identify", "x.jpg", "--threshold", "7"), "--threshold"),
    ],
)
def test_wrong_use_is_one_sentence_and_code_2(data, face_server, tmp_path, arguments, sentence):
    """A missing folder, an empty one, an unknown collection and bad options end with 2 and one line on stderr."""
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    ended = face_server(*filled, "--data", data)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err
    assert ended.err.startswith("face-server: ")
    assert len(ended.err.splitlines()) == 1


def test_one_bad_file_fails_alone(enrolled, face_server, shared, tmp_path):
    """Extract and identify report a missing and a broken file, do the rest, and end with 1."""
    data, _ = enrolled
    good = shared / "data/photos/people/biden/biden.jpg"
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for name in ("extract", "identify"):
        ended = face_server(name, tmp_path / "missing.jpg", good, tmp_path / "broken.jpg", "--data", data, "--json")
        assert ended.code == 1
        missing, found, broken = ended.json["images"]
        assert missing["problem"]["code"] == "not_found"
        assert broken["problem"]["code"] == "invalid_image"
        assert len(found["faces"]) == 1
        assert len(ended.err.splitlines()) == 2


def test_extract_prints_what_the_api_answers(enrolled, face_server, shared):
    """Boxes lie in the picture, vectors have length 1 and belong to a model."""
    data, _ = enrolled
    answer = face_server("extract", shared / "data/photos/scenes/obama_and_biden.jpg", "--data", data, "--json").json
    (picture,) = answer["images"]
    assert answer["model"].startswith("sface@")
    assert len(picture["faces"]) == 3
    for face in picture["faces"]:
        assert 0 <= face["box"]["x1"] < face["box"]["x2"] <= picture["width"]
        assert len(face["landmarks"]) == 5
        assert sum(value * value for value in face["embedding"]) == pytest.approx(1.0, abs=1e-3)
        assert 0 < face["quality"]["score"] <= 1


def blank_png():
    """A grey picture of nobody."""
    return cv2.imencode(".png", np.full((240, 320, 3), 127, np.uint8))[1].tobytes()

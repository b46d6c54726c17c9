"""Who it is, whether it is the same, and when the answer is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from face_server.api.services import Services
from face_server.domain.decision import Verdict
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import Collection, Identity
from face_server.domain.ports import AnalysisOptions
from face_server.errors import InvalidInput, ModelMismatch, NotFound
from face_server.pipeline.recognition import IdentifyOptions

STRANGER_MODEL = ModelId("other", "0" * 12, 1, 128)


async def embedding(services: Services, photo: Path) -> Embedding:
    """The embedding of the largest face of a photo."""
    (result,) = await services.intake.extract([photo.read_bytes()], AnalysisOptions(max_faces=1))
    return result.faces[0].embedding


@pytest.fixture
async def enrolled(services: Services, photos: Path) -> Services:
    """Obama and Biden are in the default collection."""
    for name, file in (("obama", "obama.jpg"), ("biden", "biden.jpg")):
        await services.enrollment.enroll("default", Identity(name, name.title()), (photos / "people" / name / file).read_bytes())
    return services


async def test_verification_tells_the_same_person_from_another(services: Services, photos: Path):
    """Two photos of one person match, photos of two people do not, at the default threshold."""
    obama, obama_again, biden = [
        await embedding(services, photos / "people" / name) for name in ("obama/obama.jpg", "obama/obama2.jpg", "biden/biden.jpg")
    ]

    assert services.recognition.verify(obama, obama_again).same
    assert not services.recognition.verify(obama, biden).same


async def test_identification_names_the_enrolled_and_nobody_else(enrolled: Services, photos: Path):
    """Each face of a scene gets its own answer: two names and four unknowns."""
    for scene, expected in (("two_people.jpg", {"Obama", "Biden"}), ("friends_six_faces.jpg", set())):
        (result,) = await enrolled.intake.extract([(photos / "scenes" / scene).read_bytes()], AnalysisOptions())
        decisions = await enrolled.recognition.identify_faces("default", result.faces, IdentifyOptions())

        assert {decision.match.identity.name for decision in decisions if decision.match} == expected


async def test_the_default_threshold_rises_with_the_collection(services: Services):
    """More people, more look-alikes: the threshold follows the number of identities."""
    model = services.analyzer.model
    thresholds = [
        services.recognition.identification_threshold(Collection("c", model, identities=n, templates=n)) for n in (10, 100, 1000, 10_000)
    ]

    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1] - 0.1


async def test_threshold_and_margin_of_the_request_win(enrolled: Services, photos: Path):
    """A threshold of 1 or a margin of 1 makes everybody unknown, and says why."""
    probe = await embedding(enrolled, photos / "people" / "obama" / "obama3.jpg")
    (strict,) = await enrolled.recognition.identify("default", [probe], IdentifyOptions(threshold=1.0))
    (close,) = await enrolled.recognition.identify("default", [probe], IdentifyOptions(margin=1.0))

    assert (strict.verdict, strict.match) == (Verdict.BELOW_THRESHOLD, None)
    assert (close.verdict, close.match) == (Verdict.WITHIN_MARGIN, None)


async def test_the_margin_counts_even_if_one_candidate_is_asked_for(enrolled: Services, photos: Path):
    """``limit`` bounds what is shown, not what is decided on."""
    probe = await embedding(enrolled, photos / "people" / "obama" / "obama3.jpg")

    (decision,) = await enrolled.recognition.identify("default", [probe], IdentifyOptions(limit=1, margin=1.0))

    assert decision.verdict is Verdict.WITHIN_MARGIN
    assert len(decision.candidates) == 1


async def test_an_empty_collection_knows_nobody(services: Services, photos: Path):
    """The verdict is no_candidate, not an error."""
    probe = await embedding(services, photos / "people" / "obama" / "obama.jpg")

    (decision,) = await services.recognition.identify("default", [probe], IdentifyOptions())

    assert decision.verdict is Verdict.NO_CANDIDATE


async def test_embeddings_of_another_model_are_refused(enrolled: Services, photos: Path):
    """Comparing across models is an error, not a number."""
    known = await embedding(enrolled, photos / "people" / "obama" / "obama.jpg")
    foreign = Embedding(known.vector, known.norm, STRANGER_MODEL)

    with pytest.raises(ModelMismatch):
        await enrolled.recognition.identify("default", [foreign], IdentifyOptions())
    with pytest.raises(ModelMismatch):
        enrolled.recognition.verify(known, foreign)


async def test_a_model_without_measurements_needs_a_stated_threshold(services: Services):
    """Nothing is guessed for weights that nobody measured; a pinned threshold is taken."""
    with pytest.raises(InvalidInput, match="state a threshold") as refused:
        services.recognition.identification_threshold(Collection("c", STRANGER_MODEL))

    assert refused.value.code == "threshold_required"
    assert services.recognition.identification_threshold(Collection("c", STRANGER_MODEL, threshold=0.5)) == 0.5


async def test_verification_against_an_identity(enrolled: Services, photos: Path):
    """A probe is the person it is checked against, or not; an unknown id is NotFound."""
    probe = await embedding(enrolled, photos / "people" / "obama" / "obama2.jpg")

    same, _ = await enrolled.recognition.verify_identity("default", "obama", probe)
    other, _ = await enrolled.recognition.verify_identity("default", "biden", probe)

    assert same.same
    assert not other.same
    with pytest.raises(NotFound):
        await enrolled.recognition.verify_identity("default", "nobody", probe)

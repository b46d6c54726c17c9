"""The gate: what becomes a template, what is refused and why, what can be overridden."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from face_server.api.services import Services
from face_server.domain.identity import Identity
from face_server.domain.ports import AnalysisOptions
from face_server.domain.quality import Reason
from face_server.errors import FaceRejected, InvalidInput, ModelMismatch, NotFound

OBAMA = Identity("obama", "Barack Obama", {"country": "US"})


def photo(photos: Path, name: str) -> bytes:
    """The bytes of a photo of people/ or scenes/."""
    return (photos / name).read_bytes()


def altered(photos: Path, name: str, change) -> bytes:
    """A photo with its pixels changed, as PNG."""
    return cv2.imencode(".png", change(cv2.imread(str(photos / name))))[1].tobytes()


async def refusal(services: Services, data: bytes, identity: Identity = OBAMA) -> FaceRejected:
    """The error that enrolling ``data`` meets."""
    with pytest.raises(FaceRejected) as refused:
        await services.enrollment.enroll("default", identity, data)
    return refused.value


async def test_a_good_photo_becomes_a_template_of_a_new_identity(services: Services, photos: Path):
    """The identity is created with its metadata, the template keeps label, digest, quality and crop."""
    enrolled = await services.enrollment.enroll("default", OBAMA, photo(photos, "people/obama/obama.jpg"), label="a.jpg")

    identity, (template,) = await services.gallery.identity("default", "obama")
    record = await services.gallery.record("default", template.id)
    assert (identity.name, dict(identity.metadata), identity.templates) == ("Barack Obama", {"country": "US"}, 1)
    assert template == enrolled.template
    assert (template.source, template.has_crop, len(template.image_digest)) == ("a.jpg", True, 64)
    assert template.quality > 0.2
    assert cv2.imdecode(np.frombuffer(record.crop, np.uint8), cv2.IMREAD_COLOR).shape == (112, 112, 3)


async def test_further_photos_join_the_identity(services: Services, photos: Path):
    """A second photo adds a template and leaves the name alone."""
    for file in ("obama.jpg", "obama2.jpg"):
        await services.enrollment.enroll("default", OBAMA, photo(photos, f"people/obama/{file}"))

    identity, templates = await services.gallery.identity("default", "obama")
    assert (identity.name, len(templates)) == ("Barack Obama", 2)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (Reason.NO_FACE, lambda pixels: np.full_like(pixels, 90)),
        (Reason.SMALL_FACE, lambda pixels: cv2.resize(pixels, None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA)),
        (Reason.LOW_SHARPNESS, lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 18)),
        (Reason.LOW_BRIGHTNESS, lambda pixels: (pixels * 0.08).astype(np.uint8)),
    ],
)
async def test_unfit_photos_are_refused_with_their_reason(services: Services, photos: Path, reason: Reason, change):
    """Nothing is stored for a refused photo."""
    error = await refusal(services, altered(photos, "people/obama/obama.jpg", change))

    assert reason in error.reasons
    assert error.field == "image"
    assert (await services.gallery.collection("default")).identities == 0


async def test_a_photo_of_several_people_needs_an_override(services: Services, photos: Path):
    """Refused as multiple_faces; with override the largest face is enrolled and the override reported."""
    scene = photo(photos, "scenes/two_people.jpg")
    error = await refusal(services, scene)
    enrolled = await services.enrollment.enroll("default", OBAMA, scene, override=True)

    assert Reason.MULTIPLE_FACES in error.reasons
    assert Reason.MULTIPLE_FACES in enrolled.overridden


async def test_no_override_finds_a_face_where_there_is_none(services: Services, photos: Path):
    """no_face cannot be overridden."""
    with pytest.raises(FaceRejected, match="no face"):
        await services.enrollment.enroll("default", OBAMA, altered(photos, "people/obama/obama.jpg", np.zeros_like), override=True)


async def test_the_same_photo_twice_is_a_duplicate(services: Services, photos: Path):
    """The very bytes, and the same picture compressed again, are refused and name the template."""
    data = photo(photos, "people/obama/obama.jpg")
    first = await services.enrollment.enroll("default", OBAMA, data)

    for again in (data, altered(photos, "people/obama/obama.jpg", lambda pixels: pixels)):
        error = await refusal(services, again)
        assert error.reasons == (Reason.DUPLICATE,)
        assert first.template.id in error.message


async def test_one_person_under_two_identities_is_a_conflict(services: Services, photos: Path):
    """Another photo of an enrolled person under a new id is refused and names whom it looks like."""
    await services.enrollment.enroll("default", OBAMA, photo(photos, "people/obama/obama.jpg"))
    error = await refusal(services, photo(photos, "people/obama/obama2.jpg"), Identity("impostor", "Somebody Else"))

    assert error.reasons == (Reason.IDENTITY_CONFLICT,)
    assert "Barack Obama" in error.message


async def test_people_who_look_alike_a_little_are_not_a_conflict(services: Services, photos: Path):
    """In a small collection the naming threshold is low; the gate asks for more before it refuses."""
    await services.enrollment.enroll("default", Identity("a", "A"), photo(photos, "people/angelina_jolie/1.jpg"))

    enrolled = await services.enrollment.enroll("default", Identity("b", "B"), photo(photos, "people/kate_siegel/1.jpg"))

    assert not enrolled.overridden


async def test_concurrent_uploads_of_one_photo_store_it_once(services: Services, photos: Path):
    """Check and write do not interleave: one is stored, the others are duplicates."""
    data = photo(photos, "people/biden/biden.jpg")
    results = await asyncio.gather(
        *(services.enrollment.enroll("default", Identity("biden", "Joe Biden"), data) for _ in range(6)), return_exceptions=True
    )

    refused = [result for result in results if isinstance(result, FaceRejected)]
    assert len(refused) == 5
    assert all(error.reasons == (Reason.DUPLICATE,) for error in refused)
    assert (await services.gallery.collection("default")).templates == 1


async def test_broken_pictures_and_unknown_collections_store_nothing(services: Services, photos: Path):
    """A truncated picture is the caller's error, an unknown collection is NotFound."""
    data = photo(photos, "people/biden/biden.jpg")

    with pytest.raises(InvalidInput):
        await services.enrollment.enroll("default", OBAMA, data[:1000])
    with pytest.raises(NotFound):
        await services.enrollment.enroll("nowhere", OBAMA, data)
    assert (await services.gallery.collection("default")).identities == 0


async def test_an_embedding_can_be_enrolled_without_a_picture(services: Services, photos: Path):
    """It becomes a template without crop; one of another model is refused."""
    reading = await services.intake.read(photo(photos, "people/biden/biden.jpg"))
    (faces,) = await services.analyzer.analyze([reading.image], AnalysisOptions(max_faces=1))
    embedding = faces[0].embedding
    enrolled = await services.enrollment.enroll_embedding("default", Identity("biden", "Joe"), embedding)
    foreign = type(embedding)(embedding.vector, 1.0, type(embedding.model)("other", "0" * 12, 1, 128))

    assert not enrolled.template.has_crop
    with pytest.raises(ModelMismatch):
        await services.enrollment.enroll_embedding("default", Identity("biden", "Joe"), foreign)

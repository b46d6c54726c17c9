"""Pictures in: bytes, base64, limits, and failures that stay alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path

import numpy as np
import pytest

from face_server.api.services import Services
from face_server.domain.ports import AnalysisOptions
from face_server.errors import FaceServerError, InputTooLarge, InvalidImage, InvalidInput
from face_server.pipeline.intake import Base64Picture, Extraction, RemotePicture

DETECT = AnalysisOptions(embed=False, quality=False)


async def test_every_way_in_gives_the_same_embeddings(services: Services, photos: Path):
    """Bytes and base64, with and without a data: prefix, end in equal embeddings."""
    data = (photos / "scenes" / "obama1.jpg").read_bytes()
    text = base64.b64encode(data).decode()
    results = await services.intake.extract([data, Base64Picture(text), Base64Picture(f"data:image/jpeg;base64,{text}")], AnalysisOptions())

    vectors = [result.faces[0].embedding.vector for result in results]

    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6)


async def test_a_picture_that_fails_fails_alone(services: Services, photos: Path):
    """Between two good pictures a broken one is an error in its place and nothing else."""
    good = (photos / "scenes" / "two_people.jpg").read_bytes()

    first, broken, last = await services.intake.extract([good, good[: len(good) // 2], good], DETECT)

    assert isinstance(broken, InvalidImage)
    assert isinstance(first, Extraction)
    assert isinstance(last, Extraction)
    assert len(first.faces) == len(last.faces) == 2


async def test_a_url_that_the_policy_forbids_fails_alone(services: Services, photos: Path):
    """A loopback URL is refused in its place; the picture beside it is analysed."""
    good = (photos / "scenes" / "obama1.jpg").read_bytes()

    forbidden, analysed = await services.intake.extract([RemotePicture("http://127.0.0.1:1/x.jpg"), good], DETECT)

    assert isinstance(forbidden, FaceServerError)
    assert forbidden.code == "url_forbidden"
    assert isinstance(analysed, Extraction)


async def test_no_pictures_and_too_many_are_refused_with_the_limit(services: Services):
    """An empty list and one beyond the limit are errors of the call that name the field."""
    with pytest.raises(InvalidInput, match="no images") as none:
        await services.intake.extract([], DETECT)
    with pytest.raises(InputTooLarge, match=str(services.intake.limits.max_images)):
        await services.intake.extract([b"x"] * (services.intake.limits.max_images + 1), DETECT)

    assert none.value.field == "images"


async def test_the_digest_is_of_the_compressed_bytes(services: Services, photos: Path):
    """A repeated upload can be recognised by the sha256 of what was sent."""
    data = (photos / "scenes" / "obama1.jpg").read_bytes()

    reading = await services.intake.read(data, digest=True)

    assert reading.digest == hashlib.sha256(data).hexdigest()


async def test_cancelling_a_call_cancels_its_pictures(services: Services, photos: Path):
    """After a caller goes away its work ends and the next call is answered."""
    data = (photos / "scenes" / "friends_six_faces.jpg").read_bytes()
    task = asyncio.create_task(services.intake.extract([data] * 40, AnalysisOptions()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    (result,) = await asyncio.wait_for(services.intake.extract([data], DETECT), 10)

    assert isinstance(result, Extraction)
    assert len(result.faces) == 6

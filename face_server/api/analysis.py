"""What the routers share of looking at pictures."""

from __future__ import annotations

from face_server.api.pictures import source_of
from face_server.api.schemas.faces import AnalysisFields
from face_server.api.services import Services
from face_server.domain.embedding import Embedding
from face_server.domain.face import Face
from face_server.domain.ports import AnalysisOptions
from face_server.domain.quality import Reason
from face_server.errors import FaceRejected, FaceServerError


def analysis_options(body: AnalysisFields, services: Services, *, embed: bool, quality: bool, crops: bool) -> AnalysisOptions:
    """What a request asks for, completed with the server's defaults and bounded by its limits."""
    defaults = services.defaults
    return AnalysisOptions(
        min_score=defaults.min_score if body.min_score is None else body.min_score,
        max_size_px=body.max_size or defaults.max_size_px,
        min_face_px=body.min_face_size,
        max_faces=min(body.max_faces or defaults.max_faces, defaults.max_faces),
        embed=embed,
        quality=quality,
        crops=crops,
    )


async def one_face(picture: str | bytes, services: Services, *, largest: bool, field: str) -> tuple[Face, Embedding]:
    """The face that a 1:1 comparison uses, and its embedding.

    Raises FaceRejected for a picture without a face, and for one with several unless ``largest``;
    errors of reading the picture name ``field``.
    """
    defaults = services.defaults
    options = AnalysisOptions(defaults.min_score, defaults.max_size_px, max_faces=defaults.max_faces)
    (outcome,) = await services.intake.extract([source_of(picture)], options)
    if isinstance(outcome, FaceServerError):
        outcome.field = field
        raise outcome
    faces = outcome.faces
    if not faces:
        raise FaceRejected(f"no face was found in {field}", reasons=(Reason.NO_FACE.value,), field=field)
    if len(faces) > 1 and not largest:
        sentence = f"{field} shows {len(faces)} faces, a comparison needs exactly one (largest_face takes the largest)"
        raise FaceRejected(sentence, reasons=(Reason.MULTIPLE_FACES.value,), field=field)
    face = max(faces, key=lambda one: one.detection.box.area)
    if face.embedding is None:
        raise AssertionError("the analyzer left out the embedding that was asked for")
    return face, face.embedding

"""Faces and decisions as lines for people; for programs there is the JSON of the HTTP API."""

from __future__ import annotations

from face_server.domain.decision import Decision, Verdict
from face_server.domain.face import Face


def face_line(face: Face) -> str:
    """Where the face is, how sure the detector is, how usable it is."""
    box = face.detection.box
    place = f"{box.width:.0f}×{box.height:.0f} px at ({box.x1:.0f}, {box.y1:.0f})"
    quality = "" if face.quality is None else f", quality {face.quality.score:.2f}"
    return f"{place}, score {face.detection.score:.2f}{quality}"


def decision_line(decision: Decision) -> str:
    """The name with its similarity, or unknown and why."""
    if decision.match is not None:
        return f"{decision.match.identity.name} (similarity {decision.match.similarity:.3f}, threshold {decision.threshold:.3f})"
    if decision.verdict is Verdict.NO_CANDIDATE:
        return "unknown (nobody is enrolled)"
    nearest = decision.candidates[0]
    if decision.verdict is Verdict.WITHIN_MARGIN:
        second = decision.candidates[1].identity.name if len(decision.candidates) > 1 else "somebody else"
        return f"unknown ({nearest.identity.name} and {second} are within the margin {decision.margin:.3f})"
    return f"unknown (nearest similarity {nearest.similarity:.3f}, threshold {decision.threshold:.3f})"

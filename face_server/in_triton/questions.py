"""Questions of callers whom nobody has checked yet: every value has its type and its bounds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from numpy.typing import NDArray

from face_server.domain.face_pipeline import Question
from face_server.domain.ports import AnalysisOptions
from face_server.domain.video_pipeline import VideoQuestion
from face_server.errors import InvalidInput

_LARGEST: Final = {"min_score": 1, "max_size_px": 8192, "min_face_px": 100_000, "max_faces": 10_000}
"""As the HTTP API. The smallest ``max_size_px`` is the detector's to say."""

_ENDLESS: Final = 1 << 31


def read_question(tensor: NDArray[Any] | None) -> Question:
    """``Question.from_tensor`` with checked values. Raises InvalidInput naming the value that cannot be."""
    question = Question.from_tensor(tensor)
    _check(question.analysis)
    _check(question)
    return question


def read_video_question(tensor: NDArray[Any] | None) -> VideoQuestion:
    """``VideoQuestion.from_tensor`` with checked values. Raises InvalidInput naming the value that cannot be."""
    question = VideoQuestion.from_tensor(tensor)
    _check(question.analysis)
    _check(question)
    if question.every_n < 1:
        raise InvalidInput("options: every_n must be at least 1", field="options")
    if 0 < question.end_s <= question.start_s:
        raise InvalidInput("options: end_s must be later than start_s", field="options")
    return question


def _check(values: AnalysisOptions | Question | VideoQuestion) -> None:
    for one in fields(values):
        value = getattr(values, one.name)
        if isinstance(value, AnalysisOptions):
            continue
        # JSON has no more than one kind of number, so a whole one will do for any.
        expected = (int, float) if isinstance(one.default, float) else (type(one.default),)
        if type(value) not in expected:
            raise InvalidInput(f"options: {one.name} must be of the type {expected[-1].__name__}", field="options")
        largest = _LARGEST.get(one.name, _ENDLESS)
        if not 0 <= value <= largest:
            raise InvalidInput(f"options: {one.name} must be from 0 to {largest}", field="options")

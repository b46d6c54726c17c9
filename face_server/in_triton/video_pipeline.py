"""The model ``video_pipeline``: an encoded video in, one response for each analysed frame; its wire format is ``domain.video_pipeline``.

Decoupled: responses go out as frames are analysed, the last one is empty and final. A video that
cannot be read on, or goes beyond a bound, ends with one error after the frames before it. A caller
who cancels, or goes away, ends the decoding at the next frame. One frame is in memory at a time, and
the next is decoded when the response to the last has been handed to Triton. But Triton keeps what a
slow caller has not read yet, however much that is, and tells nobody: so all answers to one video
together have a bound as well.

Decoding is PyAV's, on the CPU. A server with a GPU and Triton's DALI backend can decode there with a
DALI model in front of ``face_pipeline`` instead; no test of this project has shown that.

Parameters of ``config.pbtxt``: ``max_bytes`` of the file, ``max_pixels`` of a frame, ``max_seconds`` of
video, ``max_frames`` that are analysed, ``max_answer_bytes``; others as ``face_pipeline``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from face_server.domain.face_pipeline import answer
from face_server.domain.frame import Frame
from face_server.domain.ports import Analysis
from face_server.domain.video_pipeline import NAME, VideoQuestion
from face_server.errors import FaceServerError, InputTooLarge
from face_server.in_triton.faces import Faces
from face_server.in_triton.networks import read_networks
from face_server.in_triton.parameters import whole_number
from face_server.in_triton.questions import read_video_question
from face_server.in_triton.responses import breakdown, cancelled, chosen, refusal
from face_server.video.formats import ImageLimits
from face_server.video.recording import recorded_frames

_MAX_BYTES: Final = 512 * 1024 * 1024
_MAX_SECONDS: Final = 4 * 3600
_MAX_FRAMES: Final = 100_000
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_EARLY_S: Final = 0.001
"""Time stamps are rounded: a frame this much before its turn has come in time."""


class TritonPythonModel:
    """One instance: answers one video after the other; more at a time are more instances."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read configuration and contract of the networks. Triton does not load the model if that fails, and says why."""
        try:
            self._max_bytes = whole_number(args, "max_bytes", _MAX_BYTES)
            self._max_pixels = whole_number(args, "max_pixels", ImageLimits().max_pixels)
            self._max_seconds = whole_number(args, "max_seconds", _MAX_SECONDS)
            self._max_frames = whole_number(args, "max_frames", _MAX_FRAMES)
            self._max_answer_bytes = whole_number(args, "max_answer_bytes", _MAX_ANSWER_BYTES)
            self._faces = Faces(read_networks(args), args)
        except FaceServerError as error:
            raise pb_utils.TritonModelException(error.message) from error

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request by itself; one that fails does not touch the others."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
                end = []
            except _CancelledError:
                end = [cancelled()]
            except FaceServerError as error:
                end = [refusal(error)]
            except Exception as error:  # noqa: BLE001 - the boundary: no request may take the instance, or its neighbours, with it
                end = [breakdown(NAME, error)]
            sender.send(*end, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Let go."""
        self._faces.close()

    def _answer(self, request: Any, sender: Any) -> None:
        options = pb_utils.get_input_tensor_by_name(request, "options")
        question = read_video_question(None if options is None else options.as_numpy())
        video = pb_utils.get_input_tensor_by_name(request, "video").as_numpy()
        if video.size > self._max_bytes:
            raise InputTooLarge(f"the video has {video.size} bytes, at most {self._max_bytes} are allowed", field="video")
        wanted, left = request.requested_output_names(), self._max_answer_bytes
        started = time.perf_counter()
        with closing(recorded_frames(video)) as frames:
            for frame in self._wanted(frames, question, sender):
                image = frame.image()
                decode_ms = 1000 * (time.perf_counter() - started)
                found = Analysis(frame.width, frame.height, tuple(self._faces.of(image, question.analysis)), decode_ms)
                place: dict[str, NDArray[Any]] = {
                    "time_s": np.array([frame.position_s], np.float32),
                    "frame_number": np.array([frame.number], np.int64),
                }
                tensors = place | answer(found, self._faces.model)
                left -= sum(tensors[name].nbytes for name in wanted)
                if left < 0:
                    limit = f"at most {self._max_answer_bytes} bytes of answers to one video are allowed"
                    raise InputTooLarge(f"{limit}; ask for fewer frames or fewer outputs", field="video")
                sender.send(chosen(tensors, request))
                started = time.perf_counter()

    def _wanted(self, frames: Iterator[Frame], question: VideoQuestion, sender: Any) -> Iterator[Frame]:
        """The frames to analyse. Raises InputTooLarge at the frame that is one too many or too large."""
        analysed, due_s = 0, 0.0
        for frame in frames:
            if sender.is_cancelled():
                raise _CancelledError
            if 0 < question.end_s <= frame.position_s:
                return
            if frame.position_s > self._max_seconds:
                raise InputTooLarge(f"the video is longer than the {self._max_seconds} seconds that are allowed", field="video")
            if frame.position_s < max(due_s - _EARLY_S, question.start_s) or frame.number % question.every_n:
                continue
            if question.max_fps:
                # The next turn is on the grid, not one step after a frame that came late.
                due_s = (int((frame.position_s + _EARLY_S) * question.max_fps) + 1) / question.max_fps
            if frame.width * frame.height > self._max_pixels:
                size = f"{frame.width}×{frame.height} = {frame.width * frame.height} pixels"
                raise InputTooLarge(f"frames of the video are {size}, at most {self._max_pixels} are allowed", field="video")
            if analysed == self._max_frames:
                raise InputTooLarge(f"more than the {self._max_frames} frames that are allowed would be analysed", field="video")
            analysed += 1
            yield frame


class _CancelledError(Exception):
    """Nobody waits for the answers any more."""

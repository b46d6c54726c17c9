"""Callers of the pipelines, as small as their tests need them; and what is asked in process to compare with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from face_server.backends.onnx import OnnxBackend
from face_server.domain import face_pipeline, video_pipeline
from face_server.domain.embedding import ModelId
from face_server.domain.face import Face
from face_server.domain.face_pipeline import Question, read_answer, read_fault
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import Analysis, AnalysisOptions
from face_server.domain.video_pipeline import VideoQuestion
from face_server.errors import FaceServerError
from face_server.models.detector import NetworkDetector
from face_server.models.embedder import NetworkEmbedder
from face_server.models.weights import WeightsStore
from face_server.pipeline.analysis import LocalAnalyzer
from face_server.workers import Workers

USUAL: Final = AnalysisOptions()
EVERY_FRAME: Final = VideoQuestion()

_TYPES = {"uint8": "UINT8", "object": "BYTES"}


class Refused(Exception):
    """What the server said instead of tensors: its gRPC status, its text and, where it speaks of the picture, the error behind it."""

    def __init__(self, error: InferenceServerException) -> None:
        super().__init__(error.message())
        self.status = str(error.status())
        self.text = str(error.message())
        self.fault = read_fault(self.text)


class Asker:
    """Asks the pipelines of one server."""

    def __init__(self, url: str, model: ModelId) -> None:
        self.client = triton.InferenceServerClient(url)
        self.model = model
        self.outputs = [spec.name for spec in face_pipeline.outputs(model.dimension)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.client.close()

    async def raw(self, inputs: Mapping[str, Any], outputs: Sequence[str] = (), *, model: str = face_pipeline.NAME) -> dict[str, Any]:
        """The tensors that a model answers; all of ``face_pipeline`` if none are named."""
        wanted = [triton.InferRequestedOutput(name) for name in outputs or self.outputs]
        try:
            answer = await self.client.infer(model, tensors(inputs), outputs=wanted, client_timeout=60)
        except InferenceServerException as error:
            raise Refused(error) from error
        return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}

    async def analysis(self, inputs: Mapping[str, Any], options: AnalysisOptions = USUAL, **question: Any) -> Analysis:
        """What ``face_pipeline`` says of one picture."""
        return read_answer(await self.raw({**inputs, "options": Question(options, **question).to_tensor()}), self.model)

    async def encoded(self, data: bytes, options: AnalysisOptions = USUAL, **question: Any) -> Analysis:
        """What ``face_pipeline`` says of a compressed picture."""
        return await self.analysis({"encoded": np.frombuffer(data, np.uint8)}, options, **question)

    async def video(self, data: bytes, question: VideoQuestion | bytes = EVERY_FRAME) -> AsyncIterator[tuple[float, int, Analysis]]:
        """Time, frame number and faces of every analysed frame; cancels when it is closed early."""
        options = np.array([question], np.object_) if isinstance(question, bytes) else question.to_tensor()
        given = tensors({"video": np.frombuffer(data, np.uint8), "options": options})

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": video_pipeline.NAME, "inputs": given, "enable_empty_final_response": True}

        answers = self.client.stream_infer(requests())
        try:
            async for answer, error in answers:
                if error is not None:
                    raise Refused(error)
                response = answer.get_response()
                if response.outputs:
                    found = read_answer({output.name: answer.as_numpy(output.name) for output in response.outputs}, self.model)
                    yield float(answer.as_numpy("time_s")[0]), int(answer.as_numpy("frame_number")[0]), found
                if response.parameters["triton_final_response"].bool_param:
                    break
        finally:
            answers.cancel()


def tensors(inputs: Mapping[str, Any]) -> list[Any]:
    """Arrays as what the client sends."""
    made = []
    for name, values in inputs.items():
        tensor = triton.InferInput(name, list(values.shape), _TYPES[values.dtype.name])
        tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


@contextlib.contextmanager
def in_process(weights: WeightsStore, detector: str, embedder: str, workers: Workers) -> Iterable[LocalAnalyzer]:
    """The same networks in this process."""
    networks = [weights.network(detector), weights.network(embedder)]
    backend = OnnxBackend(networks, workers)
    found = NetworkDetector(weights.entry(detector), backend, workers)
    yield LocalAnalyzer(found, NetworkEmbedder(weights.entry(embedder), networks[1], backend), workers)


def assert_same_faces(found: Sequence[Face], expected: Sequence[Face]) -> None:
    """The same faces in the same order: boxes and landmarks within 1 px, scores within 1e-3, embeddings at a cosine of .999."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        box, wanted = one.detection.box, other.detection.box
        assert np.abs(np.subtract((box.x1, box.y1, box.x2, box.y2), (wanted.x1, wanted.y1, wanted.x2, wanted.y2))).max() <= 1
        assert abs(one.detection.score - other.detection.score) <= 1e-3
        assert np.abs(one.detection.landmarks - other.detection.landmarks).max() <= 1
        assert (one.embedding is None, one.quality is None, one.crop is None) == (
            other.embedding is None,
            other.quality is None,
            other.crop is None,
        )
        if one.embedding and other.embedding:
            assert one.embedding.similarity(other.embedding) >= 0.999
            assert abs(one.embedding.norm / other.embedding.norm - 1) < 0.01
        if one.quality and other.quality:
            for name in ("size_px", "sharpness", "brightness", "detection_score", "score"):
                assert getattr(one.quality, name) == getattr(other.quality, name) or np.isclose(
                    getattr(one.quality, name), getattr(other.quality, name), rtol=0.01, atol=0.002
                ), name
            assert np.abs(np.subtract(one.quality.pose.yaw, other.quality.pose.yaw)) < 1
        if one.crop is not None and other.crop is not None:
            assert np.abs(one.crop.astype(int) - other.crop.astype(int)).mean() < 1


async def faces_here(analyzer: LocalAnalyzer, pixels: Pixels, options: AnalysisOptions = USUAL) -> list[Face]:
    """The faces that this process finds."""
    (faces,) = await analyzer.analyze([Image.from_pixels(pixels)], options)
    return faces


def refusal_here(error: FaceServerError) -> tuple[type[FaceServerError], str, str | None, str]:
    """What of an error reaches a caller."""
    return type(error), error.code, error.field, error.message


def samples(videos: Path, name: str) -> bytes:
    """The bytes of a test video."""
    return (videos / name).read_bytes()

"""Pictures to faces inside of Triton: the analysis of this project over networks of the server."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from face_server.domain.embedding import ModelId
from face_server.domain.face import Face
from face_server.domain.image import Image, Pixels
from face_server.domain.network import Network
from face_server.domain.ports import AnalysisOptions, Runner
from face_server.in_triton import bls
from face_server.in_triton.networks import CalledNetworks
from face_server.in_triton.parameters import whole_number, word
from face_server.models.detector import detect_with
from face_server.models.embedder import embed_with, model_id
from face_server.models.families import embedder_family
from face_server.pipeline.analysis import analyze_here, embed_here

_EMBED_BATCH = 16
_EMBED_CALLS = 2


class Faces:
    """Detector, alignment, quality and embedder in the calling thread; used by one thread only.

    Parameters of ``config.pbtxt``: ``networks`` says who runs them, other models of the server (``bls``)
    or ONNX Runtime in this process (``here``: on a CPU the picture costs 2 ms less, but nothing is
    batched across requests and each instance holds its own weights). ``embed_batch`` faces share one call of the embedder (at most its
    ``max_batch_size``; on CPUs 1, so that its instances share the faces of a picture), and
    ``embed_calls`` of these calls are under way at a time.
    """

    def __init__(self, networks: CalledNetworks, args: Mapping[str, str]) -> None:
        embedder = networks.embedder
        self.model: ModelId = model_id(embedder.entry, embedder.network)
        """The model of the embeddings."""
        batch, calls = whole_number(args, "embed_batch", _EMBED_BATCH), whole_number(args, "embed_calls", _EMBED_CALLS)
        self._calls = ThreadPoolExecutor(calls, thread_name_prefix="embed")
        detector, run = networks.detector.entry, _runner(networks.detector.network, args)
        self._detect = {second_pass: detect_with(detector, run, second_pass=second_pass) for second_pass in (True, False)}
        recipe = embedder_family(embedder.entry.family).recipe
        self._embed = embed_with(recipe, self.model, _runner(embedder.network, args), batch=batch, each=self._calls.map)

    def of(self, image: Image, options: AnalysisOptions, *, second_pass: bool = True) -> list[Face]:
        """The faces of ``image``, as ``pipeline.analysis.LocalAnalyzer`` finds them. Raises the errors of ``in_triton.bls.runner``."""
        return analyze_here(image, options, self._detect[second_pass], self._embed)

    def of_crops(self, crops: Pixels, options: AnalysisOptions) -> list[Face]:
        """One face for each of N×112×112×3 aligned crops, whatever ``options`` say of detection."""
        faces = embed_here(crops, self._embed, mirror=options.mirror)
        return faces if options.crops else [replace(face, crop=None) for face in faces]

    def close(self) -> None:
        """End the threads."""
        self._calls.shutdown()


def _runner(network: Network, args: Mapping[str, str]) -> Runner:
    if word(args, "networks", ("bls", "here")) == "bls":
        return bls.runner(network)
    from face_server.in_triton import here  # noqa: PLC0415 - servers whose networks run elsewhere need no ONNX Runtime here

    return here.runner(network, args)

"""The seams of the system: what each part may expect of the others.

Every port has one suite of contract tests under ``tests/contracts`` that all its implementations
pass. All methods raise errors of ``face_server.errors`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from face_server.domain.embedding import Embeddings, ModelId
from face_server.domain.face import Detection, Face
from face_server.domain.identity import Candidate, Change, Collection, Identity, Template, TemplateRecord
from face_server.domain.image import Image, Pixels

Tensors = Mapping[str, NDArray[Any]]
Runner = Callable[[Tensors], Tensors]
DetectHere = Callable[[Image, float, int], list[Detection]]
EmbedHere = Callable[[Pixels, bool], Embeddings]


class Backend(Protocol):
    """Runs networks by name. Safe to call from many tasks at once."""

    @property
    def description(self) -> str:
        """What runs the networks, for people: "onnxruntime 1.31 (CPUExecutionProvider)"."""
        ...

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """Run ``network`` once. The first dimension of every tensor is the batch.

        Raises NotFound for an unknown network, InvalidInput for tensors that break its contract,
        Unavailable when the runtime is away. Cancelling drops work that has not started.
        """
        ...

    def runner(self, network: str) -> Runner | None:
        """A function that runs ``network`` in the thread that calls it, or None where calls must be awaited.

        For callers who are in a worker thread already: it saves two changes of thread. Its errors
        are those of ``infer``. Remote and batching backends have none.
        """
        ...

    async def ready(self, network: str) -> bool:
        """Whether ``infer`` would run now."""
        ...

    async def close(self) -> None:
        """Release sessions, connections and threads. Idempotent."""
        ...


class RemoteModels(Protocol):
    """Models of an inference server that are more than a network: several inputs, some of them optional, no batch."""

    async def call(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Run ``model`` once and return the named outputs; texts are object arrays of bytes.

        Raises InvalidInput, InvalidImage and InputTooLarge as the model refuses the input,
        NotFound for an unknown model, Overloaded and Unavailable as ``Backend.infer``. Cancelling
        cancels the call on the server where it has not started.
        """
        ...


class Detector(Protocol):
    """Finds faces."""

    @property
    def name(self) -> str:
        """Name in the model catalogue."""
        ...

    async def detect(self, images: Sequence[Image], *, min_score: float, max_size_px: int) -> list[list[Detection]]:
        """Per image the faces with score >= ``min_score``, highest score first.

        Pictures are scaled down so that their long side is at most ``max_size_px``; results are in
        the pixels of ``Image.pixels``.
        """
        ...

    def runner(self) -> DetectHere | None:
        """``detect`` of one image in the thread that calls it, or None where calls must be awaited; see ``Backend.runner``."""
        ...


class Embedder(Protocol):
    """Turns aligned crops into embeddings."""

    @property
    def model(self) -> ModelId:
        """What every embedding it makes carries."""
        ...

    async def embed(self, crops: Pixels, *, mirror: bool = False) -> Embeddings:
        """Embed N×112×112×3 uint8 BGR aligned crops; N may be 0.

        ``mirror`` averages each embedding with that of the mirrored crop (twice the work, fewer
        misses; meant for enrolment).
        """
        ...

    def runner(self) -> EmbedHere | None:
        """``embed`` (crops, mirror) in the thread that calls it, or None where calls must be awaited; see ``Backend.runner``."""
        ...


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What to find and compute. ``max_faces`` 0 means all; otherwise the largest are kept."""

    min_score: float = 0.6
    max_size_px: int = 640
    min_face_px: int = 0
    max_faces: int = 0
    embed: bool = True
    mirror: bool = False
    quality: bool = True
    crops: bool = False


@dataclass(frozen=True, slots=True)
class CompressedPicture:
    """A picture as it came: its bytes, and what decodes them in the calling thread, within the caller's limits."""

    data: bytes
    decode: Callable[[], Image]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """The faces of one compressed picture, its size in source pixels, and how long decoding it took."""

    width: int
    height: int
    faces: tuple[Face, ...]
    decode_ms: float


class Analyzer(Protocol):
    """Images in, faces out, in source-image pixels; the order of ``Detector.detect`` is kept."""

    @property
    def model(self) -> ModelId:
        """The model of the embeddings."""
        ...

    async def analyze(self, images: Sequence[Image], options: AnalysisOptions) -> list[list[Face]]:
        """Per image its faces."""
        ...

    async def analyze_compressed(self, picture: CompressedPicture, options: AnalysisOptions) -> Analysis:
        """Decode and analyse: in one pass through a worker thread, or both elsewhere.

        Raises what decoding raises: InvalidImage, InputTooLarge.
        """
        ...

    async def embed_crops(self, crops: Sequence[Image], *, mirror: bool = False) -> list[Face]:
        """One face per already aligned 112×112 picture (others are resized), without detection."""
        ...


class ImageCodec(Protocol):
    """Compressed pictures to pixels and back, in worker threads."""

    async def decode(self, data: bytes, *, max_size_px: int | None = None) -> Image:
        """Decode JPEG, PNG, WebP, BMP, TIFF or GIF (first frame), upright by its EXIF orientation.

        ``max_size_px`` permits (does not force) a smaller decode whose long side is still at least
        that long. Raises InvalidImage, or InputTooLarge by the size in the header, before decoding.
        """
        ...

    def decode_here(self, data: bytes, *, max_size_px: int | None = None) -> Image:
        """``decode`` in the calling thread, for callers who are in a worker thread already."""
        ...

    async def decode_base64(self, text: str | bytes) -> bytes:
        """The bytes behind base64 text, with or without a ``data:…;base64,`` prefix.

        Raises InvalidImage for text that is no base64, InputTooLarge by its length, before decoding.
        """
        ...

    async def encode_jpeg(self, pixels: Pixels, *, quality: int = 90) -> bytes:
        """Encode H×W×3 BGR pixels; ``quality`` 1..100."""
        ...


class ImageFetcher(Protocol):
    """Downloads pictures from addresses that callers may name."""

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Return the body behind an http(s) URL.

        Raises InvalidInput for addresses the policy forbids and for answers that are no success,
        InputTooLarge beyond the byte limit.
        """
        ...


@dataclass(frozen=True, slots=True)
class PaintOptions:
    """What to draw on a picture beside the boxes; ``footer`` is a line at its bottom."""

    landmarks: bool = True
    scores: bool = True
    sizes: bool = True
    names: tuple[str, ...] = ()
    footer: str = ""


class Painter(Protocol):
    """Draws results for people to look at."""

    async def paint(self, image: Image, faces: Sequence[Face], options: PaintOptions) -> bytes:
        """The picture at decoded size with its faces drawn, as JPEG bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Freshness:
    """Whether searches see the store as it is now.

    ``stale_since`` is the time (Unix seconds) up to which they surely do, None where they never did; ``reason`` is a
    sentence, "" while current. ``loaded`` of ``total`` templates are in the index; both 0 where nothing is being loaded.
    """

    current: bool
    stale_since: float | None = None
    reason: str = ""
    loaded: int = 0
    total: int = 0


CURRENT = Freshness(current=True)


class Gallery(Protocol):
    """Where templates live and are searched. The store is the truth; the index is a copy.

    Unknown names and ids raise NotFound, clashes raise Conflict, foreign models ModelMismatch. What needs the store
    raises Unavailable while it is away; searches and collections go on from the copy, and ``freshness`` says so.
    """

    @property
    def freshness(self) -> Freshness:
        """Whether the index is a copy of the store's present state. Costs nothing."""
        ...

    async def collections(self) -> list[Collection]:
        """All collections with their counts, by name."""
        ...

    async def collection(self, name: str) -> Collection:
        """One collection with its counts."""
        ...

    async def create_collection(self, collection: Collection) -> Collection:
        """Store a new collection; Conflict if the name is taken."""
        ...

    async def update_collection(self, collection: Collection) -> Collection:
        """Replace the settings of the collection of that name; its model cannot change."""
        ...

    async def drop_collection(self, name: str) -> None:
        """Erase a collection and everything in it."""
        ...

    async def apply(self, collection: str, changes: Sequence[Change]) -> None:
        """Apply all ``changes`` in order, or none. Returns when store and index have them."""
        ...

    async def identities(self, collection: str, *, name: str | None = None, after: str = "", limit: int = 100) -> list[Identity]:
        """Identities with id > ``after`` in id order; ``name`` keeps those of exactly that name."""
        ...

    async def identity(self, collection: str, identity_id: str) -> tuple[Identity, list[Template]]:
        """One identity and its templates, oldest first."""
        ...

    async def search(self, collection: str, probes: Embeddings, *, limit: int) -> list[list[Candidate]]:
        """For each probe the ``limit`` nearest people, best first, each once."""
        ...

    async def compare(self, collection: str, identity_id: str, probes: Embeddings) -> list[Candidate]:
        """For each probe how near it is to one identity. NotFound if it has no template."""
        ...

    async def records(self, collection: str, *, after: str = "", limit: int = 1000) -> list[TemplateRecord]:
        """Templates with embeddings and crops, template id > ``after``, in id order."""
        ...

    async def record(self, collection: str, template_id: str) -> TemplateRecord:
        """One template with embedding and crop."""
        ...

    async def find_image(self, collection: str, image_digest: str) -> Template | None:
        """A template that was made from the picture with this sha256, if any."""
        ...

    async def close(self) -> None:
        """Flush and release. Idempotent."""
        ...


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

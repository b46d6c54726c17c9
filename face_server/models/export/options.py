"""What a model repository is made for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from face_server.errors import ConfigurationError
from face_server.models.export.config import Gathering, Instances

LARGEST_PICTURE_BYTES: Final = 20_000_000
LARGEST_PICTURE_PIXELS: Final = 50_000_000

_CPU_INSTANCES: Final = 2
_GPU_INSTANCES: Final = 1
_PIPELINES_BEFORE_GPU: Final = 4
"""One pipeline process decodes while another waits for the GPU."""

_MAX_DELAY_US: Final = 2000
_SMALLEST_PREFERRED: Final = 4


class Platform(StrEnum):
    """What runs the networks: Triton's ONNX Runtime, its TensorRT, or ONNX Runtime within its Python backend."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    PYTHON = "python"


class Device(StrEnum):
    """Where networks run. ``auto``: TensorRT on GPUs, ONNX Runtime on GPUs where the server has any, Python on the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Pack(StrEnum):
    """Models that clients of other systems expect, with the names and tensors they expect."""

    FACE_SERVER = "face_server"
    MTCNN = "mtcnn"
    DEEPSTREAM = "deepstream"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``models`` are the catalogue networks to write; empty for all whose weights are here.

    ``detector`` and ``embedder`` are those of the pipelines. ``instances`` of each model run side
    by side, 0 for the defaults; ``max_batch`` bounds batches, 0 for the defaults. ``facenet`` is the
    user's own file for the pack mtcnn. ``frame_size`` (width, height) is that of the frames of
    ``face_ensemble``. ``max_bytes`` and ``max_pixels`` bound the compressed pictures that
    ``face_pipeline`` takes. ``bls`` lets pipelines call the networks of the server (business logic
    scripting); without, they run them in their own processes. None chooses: the latter where the
    networks are Python models on the CPU, and a call of another model costs more than it brings.
    """

    platform: Platform
    models: tuple[str, ...] = ()
    detector: str = "yunet"
    embedder: str = "sface"
    packs: frozenset[Pack] = field(default_factory=frozenset)
    device: Device = Device.AUTO
    instances: int = 0
    max_batch: int = 0
    facenet: Path | None = None
    frame_size: tuple[int, int] = (640, 640)
    max_bytes: int = LARGEST_PICTURE_BYTES
    max_pixels: int = LARGEST_PICTURE_PIXELS
    bls: bool | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.platform is Platform.TENSORRT and self.device is Device.CPU:
            raise ConfigurationError("TensorRT runs on GPUs only; export to onnxruntime or python for a CPU")
        if self.bls is False and self.platform is Platform.TENSORRT:
            raise ConfigurationError("pipelines cannot run TensorRT engines in their own processes: let them call the networks (--bls)")
        if self.facenet is not None and Pack.MTCNN not in self.packs:
            raise ConfigurationError("a FaceNet belongs to the pack mtcnn: give --pack mtcnn, too")
        if self.instances < 0 or self.max_batch < 0:
            raise ConfigurationError("the numbers of instances and of the largest batch must not be negative")

    @property
    def on_cpu(self) -> bool:
        """Whether networks surely run on the CPU."""
        return self.device is Device.CPU or (self.device is Device.AUTO and self.platform is Platform.PYTHON)

    @property
    def calls_networks(self) -> bool:
        """Whether pipelines call the networks of the server."""
        return self.bls if self.bls is not None else not (self.on_cpu and self.platform is Platform.PYTHON)

    def network_instances(self) -> Instances:
        """Where and how often a network runs."""
        if self.on_cpu:
            return Instances("KIND_CPU", self.instances or _CPU_INSTANCES)
        kind = "KIND_AUTO" if self.device is Device.AUTO and self.platform is Platform.ONNXRUNTIME else "KIND_GPU"
        return Instances(kind, self.instances or _GPU_INSTANCES)

    def pipeline_instances(self) -> Instances:
        """How many processes of a pipeline there are; their own work is done by the CPU."""
        return Instances("KIND_CPU", self.instances or (_CPU_INSTANCES if self.on_cpu else _PIPELINES_BEFORE_GPU))

    def batch(self, usual: int) -> int:
        """The largest batch of a network for which ``usual`` is the usual one."""
        return min(usual, self.max_batch) if self.max_batch else usual

    def gathering(self, max_batch: int) -> Gathering | None:
        """Batches on a GPU only: a CPU gains nothing by them, and the first request of a batch would wait for the last."""
        if self.on_cpu or max_batch == 1:
            return None
        preferred = [size for size in (_SMALLEST_PREFERRED << step for step in range(8)) if size < max_batch]
        return Gathering((*preferred, max_batch), _MAX_DELAY_US)

    def runtime_parameters(self) -> dict[str, str]:
        """Settings of Triton's ONNX Runtime, as the embedded backend has them."""
        if self.platform is not Platform.ONNXRUNTIME:
            return {}
        return {"enable_mem_pattern": "0", **({"intra_op_thread_count": "1", "inter_op_thread_count": "1"} if self.on_cpu else {})}

    def accelerator(self) -> dict[str, str]:
        """Settings of its CUDA provider: the search for the fastest convolution would start anew for every size of picture."""
        if self.platform is not Platform.ONNXRUNTIME or self.on_cpu:
            return {}
        return {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

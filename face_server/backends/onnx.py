"""ONNX Runtime in this process: the default backend.

Sessions use one thread each and run on the worker threads, so as many inferences run at once as
there are workers; on two cores that is 17 to 37 % faster under load than sessions that spread one
inference over the cores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from face_server.backends.contract import check_inputs, check_tensors, select
from face_server.domain.network import Network, TensorSpec
from face_server.domain.ports import Runner, Tensors
from face_server.errors import ConfigurationError, FaceServerError, InvalidInput, Unavailable, WeightsError
from face_server.workers import Workers

_log = logging.getLogger(__name__)

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"
_WANTED: Final[Mapping[str, str]] = MappingProxyType({"cpu": _CPU, "cuda": _CUDA, "tensorrt": _TENSORRT})

_DTYPES: Final[Mapping[str, str]] = MappingProxyType({"tensor(float)": "float32", "tensor(double)": "float64"})

_FILE_ERRORS: Final = (
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
)
"""What ONNX Runtime raises about the file itself."""

_RUNTIME_ERRORS: Final = (
    # Not before ONNX Runtime 1.24.
    getattr(ort_errors, "DeviceReset", ort_errors.Fail),
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.ModelLoadCanceled,
    ort_errors.ModelLoaded,
    ort_errors.ModelRequiresCompilation,
    ort_errors.NotFound,
    ort_errors.RuntimeException,
    # The bindings raise these two for what has no class of its own (std::exception, std::bad_alloc).
    RuntimeError,
    MemoryError,
)

FOREIGN_ERRORS: Final = (*_FILE_ERRORS, *_RUNTIME_ERRORS)
"""Everything ONNX Runtime raises; none of it leaves this module."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How sessions are opened.

    ``provider`` "auto" takes CUDA where this build of ONNX Runtime offers it and it starts, else
    the CPU; a provider that is named must start. ``require_gpu`` refuses to run "auto" on the CPU.
    ``device`` is the number of the GPU; ``engine_cache`` a folder where TensorRT keeps its engines,
    whose building takes minutes.
    """

    provider: Provider = "auto"
    require_gpu: bool = False
    device: int = 0
    engine_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.require_gpu and self.provider == "cpu":
            raise ConfigurationError("require_gpu contradicts the provider cpu")


class OnnxBackend:
    """Runs networks with ONNX Runtime on the worker threads."""

    def __init__(self, networks: Sequence[Network], workers: Workers, options: OnnxOptions = OnnxOptions()) -> None:
        """Open one session a network; blocks, so that servers use ``open``.

        Raises WeightsError for files that cannot be loaded or break their contract, and
        ConfigurationError when a required execution provider does not start.
        """
        self._workers = workers
        self._networks = {network.name: network for network in networks}
        self._sessions = {network.name: open_session(network, options) for network in networks}
        self.providers: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {name: tuple(session.get_providers()) for name, session in self._sessions.items()}
        )
        """Per network the execution providers that are active, the preferred one first."""

    @classmethod
    async def open(cls, networks: Sequence[Network], workers: Workers, options: OnnxOptions = OnnxOptions()) -> Self:
        """Make a backend without blocking the event loop; raises what the constructor raises."""
        return await workers.run(cls, networks, workers, options)

    @property
    def description(self) -> str:
        """Version and the preferred provider of the sessions."""
        active = sorted({providers[0] for providers in self.providers.values()}) or [_CPU]
        return f"onnxruntime {ort.__version__} ({', '.join(active)})"

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """Run ``network`` in a worker thread; see ``Backend.infer``."""
        known = select(self._networks, network)
        check_inputs(known, inputs)
        return await self._workers.run(_run, self._session(network), known, inputs)

    def runner(self, network: str) -> Runner | None:
        """Run ``network`` in the calling thread."""
        known = select(self._networks, network)

        def run(inputs: Tensors) -> Tensors:
            check_inputs(known, inputs)
            return _run(self._session(network), known, inputs)

        return run

    async def ready(self, network: str) -> bool:
        """Whether the session of ``network`` is open."""
        return network in self._sessions

    async def close(self) -> None:
        """Release the sessions; inferences that run end first."""
        self._sessions.clear()

    def _session(self, network: str) -> ort.InferenceSession:
        session = self._sessions.get(network)
        if session is None:
            raise Unavailable("the onnxruntime backend is closed")
        return session


def open_session(network: Network, options: OnnxOptions) -> ort.InferenceSession:
    """Open ``network`` with the providers of ``options``; blocks. Raises as ``OnnxBackend``."""
    if not network.path.is_file():
        raise WeightsError(f"the file of network {network.name!r} is missing: {network.path.name}")
    wanted, required = _choose(options)
    try:
        session = ort.InferenceSession(network.path, _session_options(), providers=_provider_list(wanted, options), enable_fallback=False)
    except FOREIGN_ERRORS as error:
        reason = str(error).strip().partition("\n")[0][:300]
        if wanted == _CPU or isinstance(error, _FILE_ERRORS):
            raise WeightsError(f"onnxruntime cannot load network {network.name!r} from {network.path.name}: {reason}") from error
        raise ConfigurationError(f"onnxruntime cannot start network {network.name!r} on {wanted}: {reason}") from error
    active = session.get_providers()[0]
    if active != wanted:
        if required:
            raise ConfigurationError(
                f"onnxruntime runs network {network.name!r} on {active} instead of {wanted}; check the GPU driver and the CUDA libraries"
            )
        _log.warning("network %s runs on %s: %s is offered but did not start", network.name, active, wanted)
    check_tensors(network, "inputs", network.inputs, [_spec(node) for node in session.get_inputs()])
    check_tensors(network, "outputs", network.outputs, [_spec(node) for node in session.get_outputs()])
    return session


def _choose(options: OnnxOptions) -> tuple[str, bool]:
    """The provider to try and whether anything else is an error."""
    offered = ort.get_available_providers()
    if options.provider != "auto":
        wanted, required = _WANTED[options.provider], True
    else:
        wanted, required = (_CUDA if options.require_gpu or _CUDA in offered else _CPU), options.require_gpu
    if wanted not in offered:
        raise ConfigurationError(
            f"this build of onnxruntime offers no {wanted}, only {', '.join(offered)}; install face_server[gpu] in place of onnxruntime"
        )
    if wanted != _CPU:
        # CUDA's libraries may come as wheels, where the loader does not look by itself.
        ort.preload_dlls()
    return wanted, required


def _provider_list(wanted: str, options: OnnxOptions) -> list[tuple[str, dict[str, str]]]:
    """``wanted`` and what may run the nodes it has no kernel for."""
    # Without it the convolution search runs anew for every new size of picture.
    cuda = (_CUDA, {"device_id": str(options.device), "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"})
    tensorrt = {"device_id": str(options.device), "trt_fp16_enable": "True"}
    if options.engine_cache is not None:
        tensorrt |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(options.engine_cache)}
    match wanted:
        case "TensorrtExecutionProvider":
            return [(_TENSORRT, tensorrt), cuda, (_CPU, {})]
        case "CUDAExecutionProvider":
            return [cuda, (_CPU, {})]
        case _:
            return [(_CPU, {})]


def _session_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Memory patterns are kept per input shape: with pictures of 120 sizes they took twice the memory
    # (300 MB against 145 MB) and gained nothing. The arena alone stays flat and costs no time.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = True
    options.log_severity_level = 3
    return options


def _spec(node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(node.name, dtype, tuple(size if isinstance(size, int) else None for size in node.shape))


def _run(session: ort.InferenceSession, network: Network, inputs: Tensors) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in network.outputs]
    try:
        outputs = session.run(names, dict(inputs))
    except FOREIGN_ERRORS as error:
        raise _translated(error, network, inputs) from error
    return dict(zip(names, outputs, strict=True))


def _translated(error: BaseException, network: Network, inputs: Tensors) -> FaceServerError:
    """Name an error of a run; ONNX Runtime's own text stays in the cause, for the log."""
    shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in inputs.items())
    if isinstance(error, ort_errors.InvalidArgument):
        return InvalidInput(f"network {network.name!r} cannot run on {shapes}", field="inputs")
    return Unavailable(f"onnxruntime failed to run network {network.name!r} on {shapes}")

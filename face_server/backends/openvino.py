"""OpenVINO in this process: the faster backend on CPUs with bf16 arithmetic. An extra.

Each network is compiled once with as many streams of one thread as there are workers, and keeps
as many infer requests: a worker thread takes a free one, runs it and gives it back. On two cores
two streams give 2.1 × the throughput of one (640 against 308 faces/s of a MobileFaceNet in bf16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Literal, Self

from numpy.typing import NDArray

from face_server.backends.contract import check_inputs, check_tensors, select
from face_server.domain.network import Network, TensorSpec
from face_server.domain.ports import Runner, Tensors
from face_server.errors import ConfigurationError, Unavailable, WeightsError
from face_server.workers import Workers

try:
    import openvino as ov  # type: ignore[import-untyped]  # it ships no complete types
    from openvino import frontend
except ImportError as error:
    raise ConfigurationError("the backend openvino needs its extra: pip install 'face_server[openvino]'") from error

Precision = Literal["auto", "f32", "bf16"]

_DEVICE: Final = "CPU"

FOREIGN_ERRORS: Final = (
    frontend.GeneralFailure,
    frontend.InitializationFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
    # Everything else, by way of the bindings: ov::Exception and std::bad_alloc.
    RuntimeError,
    MemoryError,
)
"""Everything OpenVINO raises; none of it leaves this module."""


@dataclass(frozen=True, slots=True)
class OpenVinoOptions:
    """How networks are compiled.

    ``precision`` "auto" is bf16 where the CPU computes in it, else f32; weights and outputs stay
    float32. ``cached_kernels`` bounds how many kernels a stream keeps for the sizes of pictures it
    has met; one size takes some 25 to 80. OpenVINO's own bound of 5000 takes a gigabyte a network;
    1024 cover the shapes of photos at one long side.
    """

    precision: Precision = "auto"
    cached_kernels: int = 1024


class OpenVinoBackend:
    """Runs networks with OpenVINO on the worker threads."""

    def __init__(self, networks: Sequence[Network], workers: Workers, options: OpenVinoOptions = OpenVinoOptions()) -> None:
        """Compile the networks; blocks, so that servers use ``open``.

        Raises WeightsError for files that cannot be loaded or break their contract, and
        ConfigurationError when bf16 is asked of a CPU without it.
        """
        self._workers = workers
        self._networks = {network.name: network for network in networks}
        core = ov.Core()
        self.precision = choose_precision(core, options)
        """The arithmetic in use, "bf16" or "f32"."""
        self._pools = {
            network.name: _Pool(_compile(core, network, workers.threads, self.precision, options), network, workers.threads)
            for network in networks
        }

    @classmethod
    async def open(cls, networks: Sequence[Network], workers: Workers, options: OpenVinoOptions = OpenVinoOptions()) -> Self:
        """Make a backend without blocking the event loop; raises what the constructor raises."""
        return await workers.run(cls, networks, workers, options)

    @property
    def description(self) -> str:
        """Version, device and precision."""
        return f"openvino {ov.__version__.partition('-')[0]} ({_DEVICE}, {self.precision})"

    async def infer(self, network: str, inputs: Tensors) -> Tensors:
        """Run ``network`` in a worker thread; see ``Backend.infer``."""
        known = select(self._networks, network)
        check_inputs(known, inputs)
        return await self._workers.run(self._pool(network).run, inputs)

    def runner(self, network: str) -> Runner | None:
        """Run ``network`` in the calling thread, which must be a worker: there is one request for each."""
        known = select(self._networks, network)

        def run(inputs: Tensors) -> Tensors:
            check_inputs(known, inputs)
            return self._pool(network).run(inputs)

        return run

    async def ready(self, network: str) -> bool:
        """Whether ``network`` is compiled."""
        return network in self._pools

    async def close(self) -> None:
        """Release the compiled networks; inferences that run end first."""
        self._pools.clear()

    def _pool(self, network: str) -> _Pool:
        pool = self._pools.get(network)
        if pool is None:
            raise Unavailable("the openvino backend is closed")
        return pool


class _Pool:
    """The infer requests of one network."""

    def __init__(self, compiled: ov.CompiledModel, network: Network, size: int) -> None:
        self._network = network
        self._outputs = [(spec.name, compiled.output(spec.name)) for spec in network.outputs]
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(size):
            self._idle.put(compiled.create_infer_request())

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run once, in a worker thread. Never waits: there are as many requests as workers."""
        request = self._idle.get_nowait()
        try:
            # Inputs are lent for the run, which ends before we return; outputs are copied, since
            # the next run of this request overwrites them.
            results = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
            return {name: results[port] for name, port in self._outputs}
        except FOREIGN_ERRORS as error:
            shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in inputs.items())
            raise Unavailable(f"openvino failed to run network {self._network.name!r} on {shapes}") from error
        finally:
            self._idle.put(request)


def choose_precision(core: ov.Core, options: OpenVinoOptions) -> Literal["f32", "bf16"]:
    """What "auto" means on this CPU. Raises ConfigurationError if bf16 is asked and absent."""
    has_bf16 = "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    if options.precision == "bf16" and not has_bf16:
        raise ConfigurationError("precision bf16 needs a CPU with bf16 arithmetic (AVX512-BF16 or AMX); use auto or f32")
    return "bf16" if has_bf16 and options.precision != "f32" else "f32"


def _compile(
    core: ov.Core, network: Network, streams: int, precision: Literal["f32", "bf16"], options: OpenVinoOptions
) -> ov.CompiledModel:
    settings = {
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
        "INFERENCE_PRECISION_HINT": precision,
        "CPU_RUNTIME_CACHE_CAPACITY": str(options.cached_kernels),
    }
    if not network.path.is_file():
        raise WeightsError(f"the file of network {network.name!r} is missing: {network.path.name}")
    try:
        model = core.read_model(network.path)
        check_tensors(network, "inputs", network.inputs, [_spec(port) for port in model.inputs])
        check_tensors(network, "outputs", network.outputs, [_spec(port) for port in model.outputs])
        return core.compile_model(model, _DEVICE, settings)
    except FOREIGN_ERRORS as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise WeightsError(f"openvino cannot load network {network.name!r} from {network.path.name}: {reason}") from error


def _spec(port: Any) -> TensorSpec:
    shape = tuple(dimension.get_length() if dimension.is_static else None for dimension in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), port.get_element_type().to_dtype().name, shape)

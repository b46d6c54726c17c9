"""What Triton is told of a model: ``config.pbtxt`` as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from face_server.domain.network import TensorSpec
from face_server.models.export.pbtxt import Message, Value, Word, pbtxt

MARK: Final = "# Written by `face-server models export`, which replaces this file when it runs again.\n"
"""The first line of every file that an export may replace."""

_TYPES: Final[Mapping[str, str]] = {"float16": "TYPE_FP16", "float32": "TYPE_FP32", "object": "TYPE_STRING"}


@dataclass(frozen=True, slots=True)
class Instances:
    """``count`` copies side by side; ``kind`` is KIND_CPU, KIND_GPU (that many on each GPU) or KIND_AUTO."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Gathering:
    """Requests that wait together become one batch, of a ``preferred`` size at once, of any size after ``max_delay_us``."""

    preferred: tuple[int, ...]
    max_delay_us: int


@dataclass(frozen=True, slots=True)
class Step:
    """A model of an ensemble: its tensors on the left, what they are called within the ensemble on the right."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model of a repository.

    ``runs_on`` is a backend (python, onnxruntime, tensorrt) or "ensemble". Tensors have no batch
    dimension where ``max_batch`` is above 0. Inputs named in ``optional`` may be left out.
    ``warm_up`` are shapes by input name, batch first, that are run before the model counts as ready.
    ``labels`` names the file of labels of an output.
    """

    name: str
    runs_on: str
    max_batch: int
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    optional: frozenset[str] = frozenset()
    instances: Instances | None = None
    gathering: Gathering | None = None
    warm_up: Sequence[Mapping[str, tuple[int, ...]]] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    accelerator: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    decoupled: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""

    def text(self) -> str:
        """The content of ``config.pbtxt``."""
        comment = "".join(f"# {line}\n" for line in self.comment.splitlines())
        return f"{MARK}{comment}\n{pbtxt(self._message())}"

    def _message(self) -> Message:
        message: dict[str, Value] = {"name": self.name, **_runtime(self.runs_on), "max_batch_size": self.max_batch}
        message["input"] = [self._tensor(spec) for spec in self.inputs]
        message["output"] = [self._tensor(spec) for spec in self.outputs]
        if self.steps:
            message["ensemble_scheduling"] = {"step": [_step(step) for step in self.steps]}
        if self.gathering is not None:
            message["dynamic_batching"] = {
                "preferred_batch_size": list(self.gathering.preferred),
                "max_queue_delay_microseconds": self.gathering.max_delay_us,
            }
        if self.instances is not None:
            message["instance_group"] = [{"count": self.instances.count, "kind": Word(self.instances.kind)}]
        if self.decoupled:
            message["model_transaction_policy"] = {"decoupled": True}
        if not self.steps:
            message["version_policy"] = {"latest": {"num_versions": 1}}
        message["model_warmup"] = [self._sample(shapes) for shapes in self.warm_up]
        if self.accelerator:
            settings = [{"key": key, "value": value} for key, value in self.accelerator.items()]
            message["optimization"] = {
                "execution_accelerators": {"gpu_execution_accelerator": [{"name": "cuda", "parameters": settings}]},
            }
        message["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in self.parameters.items()]
        return {name: value for name, value in message.items() if value != []}

    def _tensor(self, spec: TensorSpec) -> Message:
        tensor: dict[str, Value] = {"name": spec.name, "data_type": Word(_type(spec.dtype)), "dims": _dims(spec)}
        if spec.name in self.optional:
            tensor["optional"] = True
        if spec.name in self.labels:
            tensor["label_filename"] = self.labels[spec.name]
        return tensor

    def _sample(self, shapes: Mapping[str, tuple[int, ...]]) -> Message:
        types = {spec.name: _type(spec.dtype) for spec in self.inputs}
        batched = self.max_batch > 0
        batch = next(iter(shapes.values()))[0] if batched else 0
        samples: list[Message] = [
            {"key": name, "value": {"data_type": Word(types[name]), "dims": list(shape[batched:]), "random_data": True}}
            for name, shape in shapes.items()
        ]
        sample: dict[str, Value] = {"name": f"{batch} at once" if batched else "one request"}
        if batched:
            sample["batch_size"] = batch
        sample["inputs"] = samples
        return sample


def _runtime(runs_on: str) -> Message:
    match runs_on:
        case "ensemble":
            return {"platform": "ensemble"}
        case "onnxruntime":
            return {"backend": "onnxruntime", "platform": "onnxruntime_onnx"}
        case "tensorrt":
            return {"backend": "tensorrt", "platform": "tensorrt_plan"}
        case _:
            return {"backend": runs_on}


def _step(step: Step) -> Message:
    return {
        "model_name": step.model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in step.inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in step.outputs.items()],
    }


def _type(dtype: str) -> str:
    return _TYPES.get(dtype, f"TYPE_{dtype.upper()}")


def _dims(spec: TensorSpec) -> list[Value]:
    return [-1 if size is None else size for size in spec.shape]

"""Looking up and replacing parts of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from face_server.errors import WeightsError


class GraphEditor:
    """One ONNX model while it is being rewritten.

    Holds the nodes in topological order and the initializers by name; ``model`` assembles them.
    Every step is deterministic: names come from the graph and from counters, never from a clock or
    a hash.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._source = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants: dict[str, NDArray[Any]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.inputs: list[onnx.ValueInfoProto] = live_inputs(model)
        self.outputs: list[onnx.ValueInfoProto] = list(model.graph.output)
        self._counter = 0

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next(int(entry.version) for entry in self._source.opset_import if entry.domain in ("", "ai.onnx"))

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that computes ``tensor``; None for inputs and constants."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read ``tensor``."""
        return [node for node in self.nodes if tensor in node.input]

    def is_output(self, tensor: str) -> bool:
        """Whether ``tensor`` leaves the graph."""
        return any(value.name == tensor for value in self.outputs)

    def fresh(self, stem: str) -> str:
        """A tensor name that nothing uses yet."""
        self._counter += 1
        return f"{stem}__{self._counter}"

    def add_constant(self, stem: str, value: NDArray[Any]) -> str:
        """Store ``value`` as an initializer and return its name."""
        name = self.fresh(stem)
        self.constants[name] = value
        return name

    def replace(self, old: onnx.NodeProto, new: Iterable[onnx.NodeProto]) -> None:
        """Put ``new`` nodes where ``old`` stands; they must produce what ``old`` produced."""
        index = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[index : index + 1] = list(new)

    def drop(self, node: onnx.NodeProto) -> None:
        """Remove ``node``; nothing may read what it produced any more."""
        self.nodes = [other for other in self.nodes if other is not node]

    def redirect(self, old: str, new: str) -> None:
        """Let every reader of tensor ``old`` read ``new``."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def rename_output(self, old: str, new: str) -> None:
        """Rename the tensor ``old`` that leaves the graph."""
        for node in self.nodes:
            for index, name in enumerate(node.output):
                if name == old:
                    node.output[index] = new
        self.redirect(old, new)
        for value in self.outputs:
            if value.name == old:
                value.name = new

    def prune(self) -> None:
        """Remove nodes and constants that no output depends on."""
        wanted = {value.name for value in self.outputs}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in wanted}

    def model(self) -> onnx.ModelProto:
        """Assemble the edited model: constants are initializers only, never overridable inputs."""
        self.prune()
        # Folded weights may be reversed views; ascontiguousarray alone would turn scalars into vectors.
        plain = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in self.constants.items()}
        tensors = [numpy_helper.from_array(value, name) for name, value in plain.items()]
        graph = helper.make_graph(self.nodes, "face_server", self.inputs, self.outputs, tensors)
        standard = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, ir_version=max(self._source.ir_version, 4), opset_imports=standard, producer_name="face_server")


def live_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: neither initializers nor declared and never read."""
    read = {name for node in model.graph.node for name in node.input}
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name in read - weights]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of ``node`` as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def load(data: bytes, what: str) -> onnx.ModelProto:
    """Parse ONNX bytes. Raises WeightsError naming ``what`` when they are not a model of standard operators."""
    try:
        onnx.checker.check_model(data)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise WeightsError(f"{what} is not a valid ONNX model: {str(error).splitlines()[0]}") from error
    model = onnx.load_model_from_string(data)
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise WeightsError(f"{what} uses operators outside the ONNX standard: {', '.join(foreign)}")
    return model

"""Tensors as the messages of Triton's gRPC protocol (KServe, version 2), and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from face_server.domain.ports import Tensors
from face_server.errors import InvalidInput, Unavailable

_RAW_CONTENTS: Final = bytes([service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""How a length-delimited field of that number begins in the encoding of protocol buffers."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a region of shared memory that the server knows by name."""

    region: str
    offset: int


def encode(model: str, inputs: Tensors, outputs: Sequence[str], places: Mapping[str, Place]) -> bytes:
    """A ModelInferRequest. Inputs in ``places`` lie in shared memory, the others are part of the message.

    The contents of tensors are appended to the encoded rest, which copies them once; the classes
    that protoc makes copy them three times. Blocks for about a millisecond per 4 MB.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    pieces: list[bytes | memoryview] = []
    for name, tensor in inputs.items():
        part = request.inputs.add(name=name, datatype=_datatype(name, tensor), shape=tensor.shape)
        place = places.get(name)
        if place is not None:
            part.parameters["shared_memory_region"].string_param = place.region
            part.parameters["shared_memory_byte_size"].int64_param = tensor.nbytes
            part.parameters["shared_memory_offset"].int64_param = place.offset
        else:
            content = _content(tensor)
            pieces += (_RAW_CONTENTS, _varint(len(content)), content)
    for name in outputs:
        request.outputs.add(name=name)
    return b"".join([request.SerializeToString(), *pieces])


def decode(message: bytes, model: str, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The tensors ``outputs`` of a ModelInferResponse. Raises Unavailable if one is not in it."""
    response = service_pb2.ModelInferResponse.FromString(message)
    found = {part.name: (part, raw) for part, raw in zip(response.outputs, response.raw_output_contents, strict=False)}
    if absent := [name for name in outputs if name not in found]:
        raise Unavailable(f"model {model!r} on Triton did not return the output {absent[0]!r}")
    return {name: _tensor(*found[name]) for name in outputs}


def _tensor(part: Any, raw: bytes) -> NDArray[Any]:
    if part.datatype == "BYTES":
        values: NDArray[Any] = deserialize_bytes_tensor(raw)
    else:
        # A bytearray, because those who receive tensors of other backends may write into them.
        values = np.frombuffer(bytearray(raw), triton_to_np_dtype(part.datatype))
    return values.reshape(tuple(part.shape))


def _datatype(name: str, tensor: NDArray[Any]) -> str:
    datatype: str | None = np_to_triton_dtype(tensor.dtype)
    if datatype is None:
        raise InvalidInput(f"a tensor of {tensor.dtype} cannot be sent to Triton", field=name)
    return datatype


def _content(tensor: NDArray[Any]) -> bytes | memoryview:
    if tensor.dtype == np.object_:
        texts: bytes = serialize_byte_tensor(tensor).item() if tensor.size else b""
        return texts
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def _varint(value: int) -> bytes:
    """``value`` in base 128, least significant digits first, the top bit of a byte saying that another follows."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)

"""Messages, beside those that NVIDIA's client makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import InferInput, service_pb2
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.utils import np_to_triton_dtype

from face_server.backends.triton.wire import Place, decode, encode
from face_server.errors import InvalidInput, Unavailable

tensors = st.sampled_from([np.uint8, np.int32, np.float32, np.float64, np.bool_]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
)


def theirs(inputs: dict[str, np.ndarray]) -> service_pb2.ModelInferRequest:
    """The request of NVIDIA's client."""
    parts = []
    for name, tensor in inputs.items():
        part = InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
        parts.append(part.set_data_from_numpy(tensor))
    return _get_inference_request("model", parts, "", "", None, 0, False, False, 0, None, None)


@given(st.lists(tensors, min_size=1, max_size=3))
def test_equals_the_usual_encoding(values: list[np.ndarray]) -> None:
    """Whatever the tensors, a parser finds what NVIDIA's client would have sent."""
    inputs = {f"input{number}": tensor for number, tensor in enumerate(values)}
    assert service_pb2.ModelInferRequest.FromString(encode("model", inputs, [], {})) == theirs(inputs)


def test_any_memory_layout() -> None:
    """Mirrored and sliced tensors are sent as what they show."""
    picture = np.random.default_rng(0).integers(0, 256, (2, 300, 400, 3), np.uint8)
    for view in (picture[..., ::-1], picture[:, ::2], picture.transpose(0, 3, 1, 2)):
        sent = service_pb2.ModelInferRequest.FromString(encode("model", {"x": view}, [], {}))
        assert sent.raw_input_contents[0] == view.tobytes()
        assert list(sent.inputs[0].shape) == list(view.shape)


def test_texts() -> None:
    """Object arrays of bytes go as texts, and come back."""
    texts = np.array([b'{"a": 1}', b"", "ä".encode()], np.object_)
    assert service_pb2.ModelInferRequest.FromString(encode("model", {"x": texts}, [], {})) == theirs({"x": texts})
    response = service_pb2.ModelInferResponse(raw_output_contents=[encode_texts(texts)])
    response.outputs.add(name="y", datatype="BYTES", shape=[3])
    assert decode(response.SerializeToString(), "model", ["y"])["y"].tolist() == texts.tolist()


def encode_texts(texts: np.ndarray) -> bytes:
    """Each text behind its length."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def test_shared_and_sent_tensors_together() -> None:
    """A tensor in shared memory leaves a note of its place, and no contents."""
    inputs = {"frame": np.zeros((4, 4, 3), np.uint8), "options": np.array([b"{}"], np.object_)}
    sent = service_pb2.ModelInferRequest.FromString(encode("model", inputs, ["boxes"], {"frame": Place("region", 128)}))
    parameters = sent.inputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "region"
    assert parameters["shared_memory_offset"].int64_param == 128
    assert parameters["shared_memory_byte_size"].int64_param == 48
    assert list(sent.raw_input_contents) == [b"\x02\0\0\0{}"]
    assert [output.name for output in sent.outputs] == ["boxes"]


def test_answers() -> None:
    """Outputs come back by name, with no rows too, and may be written into."""
    response = service_pb2.ModelInferResponse(raw_output_contents=[np.arange(6, dtype=np.float32).tobytes(), b""])
    response.outputs.add(name="a", datatype="FP32", shape=[2, 3])
    response.outputs.add(name="b", datatype="FP32", shape=[0, 4])
    found = decode(response.SerializeToString(), "model", ["b", "a"])
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].shape == (0, 4)
    found["a"] += 1
    with pytest.raises(Unavailable, match="model 'model' on Triton did not return the output 'c'"):
        decode(response.SerializeToString(), "model", ["a", "c"])


def test_unknown_dtype() -> None:
    """A dtype that the protocol does not know is the caller's mistake."""
    with pytest.raises(InvalidInput, match="complex64"):
        encode("model", {"x": np.zeros(1, np.complex64)}, [], {})

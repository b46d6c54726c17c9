"""What is compared between a server's models and what is expected of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from face_server.backends.triton.expectations import compare, of_network, of_pipeline
from face_server.domain import face_pipeline
from face_server.domain.embedding import ModelId
from face_server.domain.network import Network, TensorSpec
from face_server.errors import ConfigurationError, WeightsError

NETWORK = Network(
    "centerface",
    Path("centerface.onnx"),
    (TensorSpec("images", "uint8", (None, None, None, 3)),),
    (TensorSpec("boxes", "float32", (None, 4)),),
    "ab" * 32,
)


def seen(inputs: dict[str, tuple[str, list[int]]], outputs: dict[str, tuple[str, list[int]]]) -> service_pb2.ModelMetadataResponse:
    """What a server says of a model."""
    metadata = service_pb2.ModelMetadataResponse()
    for parts, tensors in ((metadata.inputs, inputs), (metadata.outputs, outputs)):
        for name, (datatype, shape) in tensors.items():
            parts.add(name=name, datatype=datatype, shape=shape)
    return metadata


def configured(digest: str = NETWORK.digest, max_batch: int = 8, optional: tuple[str, ...] = ()) -> model_config_pb2.ModelConfig:
    """The configuration of a model."""
    config = model_config_pb2.ModelConfig(max_batch_size=max_batch)
    for name in optional:
        config.input.add(name=name, optional=True)
    if digest:
        config.parameters["weights_sha256"].string_value = digest
    return config


IMAGES = ("UINT8", [-1, -1, -1, 3])
BOXES = ("FP32", [-1, 4])


def test_the_same() -> None:
    """Equal tensors and weights pass, further outputs and optional inputs too; the largest batch is returned."""
    expected = of_network(NETWORK)
    assert expected.model == "centerface_uint8"
    assert compare(expected, seen({"images": IMAGES}, {"boxes": BOXES, "more": BOXES}), configured(), "host:1") == 8
    assert compare(expected, seen({"images": IMAGES, "extra": BOXES}, {"boxes": BOXES}), configured(optional=("extra",)), "host:1") == 8


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ({"images": ("FP32", [-1, -1, -1, 3])}, {"boxes": BOXES}, r"input 'images' of .* must be uint8 \(N, \?, \?, 3\), is float32"),
        ({"images": ("UINT8", [-1, 640, 640, 3])}, {"boxes": BOXES}, r"must be uint8 \(N, \?, \?, 3\), is uint8 \(N, 640, 640, 3\)"),
        ({"images": ("UINT8", [-1, 3])}, {"boxes": BOXES}, r"is uint8 \(N, 3\)"),
        ({"pictures": IMAGES}, {"boxes": BOXES}, "has no input 'images', .* it has pictures"),
        ({"images": IMAGES, "extra": BOXES}, {"boxes": BOXES}, "also wants the input 'extra'"),
        ({"images": IMAGES}, {"boxes": ("FP32", [-1, 5])}, r"output 'boxes' of .* must be float32 \(N, 4\), is float32 \(N, 5\)"),
        ({"images": IMAGES}, {"scores": BOXES}, "has no output 'boxes'"),
    ],
)
def test_differences(inputs: dict, outputs: dict, sentence: str) -> None:
    """Every difference is a sentence that names model, server, tensor and both sides."""
    with pytest.raises(WeightsError, match=sentence) as caught:
        compare(of_network(NETWORK), seen(inputs, outputs), configured(), "host:1")
    assert "model 'centerface_uint8' on Triton at host:1" in caught.value.message


def test_weights() -> None:
    """Other weights are refused with both digests."""
    with pytest.raises(WeightsError, match=f"sha256 must be {NETWORK.digest}, is {'cd' * 32}"):
        compare(of_network(NETWORK), seen({"images": IMAGES}, {"boxes": BOXES}), configured("cd" * 32), "host:1")


def test_weights_that_nobody_vouches_for(caplog: pytest.LogCaptureFixture) -> None:
    """A model that does not name its weights is taken, with a warning."""
    assert compare(of_network(NETWORK), seen({"images": IMAGES}, {"boxes": BOXES}), configured(""), "host:1") == 8
    assert "does not say which weights it runs" in caplog.text


def test_pipeline() -> None:
    """face_pipeline must embed in the dimension of the model; all its inputs are named in the domain."""
    expected = of_pipeline(ModelId("sface", "ab" * 32, 1, 128), [NETWORK])
    inputs = {
        spec.name: ("BYTES" if spec.dtype == "object" else "UINT8", [size or -1 for size in spec.shape]) for spec in face_pipeline.INPUTS
    }
    types = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32", "object": "BYTES"}
    for dimension in (128, 512):
        outputs = {spec.name: (types[spec.dtype], [size or -1 for size in spec.shape]) for spec in face_pipeline.outputs(dimension)}
        if dimension == 128:
            assert compare(expected, seen(inputs, outputs), configured("", max_batch=0), "host:1") == 0
        else:
            with pytest.raises(ConfigurationError, match=r"output 'embeddings' .* \(N, 128\), is float32 \(N, 512\)"):
                compare(expected, seen(inputs, outputs), configured("", max_batch=0), "host:1")


@pytest.mark.parametrize(("parameter", "said"), [("detector", "scrfd_500m"), ("embeddings", "sface@ffff/p1/128d")])
def test_a_pipeline_of_other_networks(parameter: str, said: str) -> None:
    """Faces found by another detector, or embeddings of another model, are not taken for those of this service."""
    expected = of_pipeline(ModelId("sface", "ab" * 32, 1, 128), [NETWORK])
    config = configured("", max_batch=0)
    config.parameters[parameter].string_value = said
    with pytest.raises(ConfigurationError, match=f"its detector must be {NETWORK.name}|their model must be sface@") as refused:
        compare(expected, seen({}, {}), config, "host:1")
    assert said in refused.value.message

"""The gRPC callback against a real gRPC server."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
import trustme
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from face_server.domain.events import EventKind, SceneFace, Who
from face_server.domain.face import Box
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks import inference_result_pb2
from face_server.sinks.callback_payload import analysis_result
from face_server.sinks.opening import SinkOpener
from tests.sinks.conftest import Opening
from tests.sinks.receivers import GrpcReceiver, event, grpc_receiver

PROTOS = Path(__file__).resolve().parents[2] / "protos"


def jpeg(width: int, height: int) -> bytes:
    """A grey picture."""
    return cv2.imencode(".jpg", np.full((height, width, 3), 128, np.uint8))[1].tobytes()


async def call(opener: SinkOpener, receiver: GrpcReceiver) -> None:
    """Deliver one event through a fresh sink."""
    sink = opener.open(receiver.spec)
    try:
        await sink.deliver(event(1), {"best": b"crop", "frame": jpeg(320, 180)})
    finally:
        await sink.close()


async def test_what_is_sent(opener: SinkOpener) -> None:
    """Field by field what receivers of the face server's callback expect."""
    async with grpc_receiver() as receiver:
        await call(opener, receiver)
        (request,) = receiver.requests
    assert (request.task_id, request.result_type, request.callback_type) == ("door", "1", "1")
    assert request.analysis_result.isascii()
    assert json.loads(request.analysis_result) == {
        "behaviorBeginTime": 1_700_000_000_250,
        "behaviorEndTime": 1_700_000_000_750,
        "face_data": [
            {
                "new_face": True,
                "task_id": "door",
                "name": "张三",
                "conf": 0.7123,
                "base64_str": base64.b64encode(b"crop").decode(),
                "bbox": [50.0, 25.0, 90.0, 75.0, 0.93],
            }
        ],
        "msg": " 张三 经过",
        "image": base64.b64encode(jpeg(320, 180)).decode(),
    }


def test_everybody_recognised_on_the_frame() -> None:
    """All who were recognised are listed, the unknown are not; of two who were announced, each is new in their own alert alone."""
    box = Box(0, 0, 10, 10)
    faces = (
        SceneFace(1, box, 0.9, Who("Ada", 0.8, 0.4, "default", "a"), announced=True),
        SceneFace(2, box, 0.8, Who("Grace", 0.7, 0.4, "default", "g")),
        SceneFace(3, box, 0.7, None),
        SceneFace(4, box, 0.6, Who("Stranger 12", 0.6, 0.5, stranger_id="s"), announced=True),
    )
    first, second = (json.loads(analysis_result(event(1, faces=faces, track=track), {})) for track in (1, 4))
    assert [(face["name"], face["new_face"]) for face in first["face_data"]] == [("Ada", True), ("Grace", False), ("陌生人_12", False)]
    assert [(face["name"], face["new_face"]) for face in second["face_data"]] == [("Ada", False), ("Grace", False), ("陌生人_12", True)]
    assert (first["msg"], second["msg"]) == (" Ada 经过", " 陌生人_12 经过")
    assert first["image"] == ""
    assert first["face_data"][0]["base64_str"] == ""


def test_an_event_without_a_scene() -> None:
    """Where the faces of the frame are not known, the event speaks for itself."""
    alert = json.loads(analysis_result(event(1, faces=()), {"best": b"crop"}))
    assert [face["name"] for face in alert["face_data"]] == ["张三"]
    assert alert["face_data"][0]["bbox"] == [100.0, 50.0, 180.0, 150.0, 1.0]
    assert alert["msg"] == " 张三 经过"


@pytest.mark.parametrize(("name", "spoken"), [("Stranger 7", "陌生人_7"), ("7", "陌生人_7"), ("the postman", "the postman")])
def test_names_of_strangers(name: str, spoken: str) -> None:
    """Strangers go by their number until somebody names them."""
    alert = json.loads(analysis_result(event(1, faces=(), who=Who(name, 0.5, 0.4, stranger_id="s")), {}))
    assert alert["face_data"][0]["name"] == spoken


async def test_only_alerts(opener: SinkOpener) -> None:
    """What is no alert has no form in the callback."""
    async with grpc_receiver() as receiver:
        sink = opener.open(receiver.spec)
        with pytest.raises(DeliveryRefused, match="person_seen"):
            await sink.deliver(event(1, EventKind.STREAM_LOST), {})
        await sink.close()
        assert receiver.requests == []


@pytest.mark.parametrize("status", ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"])
async def test_answers_that_ask_for_another_try(opener: SinkOpener, status: str) -> None:
    """A receiver that stumbled may be asked again."""
    async with grpc_receiver() as receiver:
        receiver.status = grpc.StatusCode[status]
        with pytest.raises(Unavailable):
            await call(opener, receiver)
        receiver.status = None
        await call(opener, receiver)


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION"])
async def test_answers_that_refuse(opener: SinkOpener, status: str) -> None:
    """A receiver that says no is believed."""
    async with grpc_receiver() as receiver:
        receiver.status = grpc.StatusCode[status]
        with pytest.raises(DeliveryRefused, match=status):
            await call(opener, receiver)


async def test_a_message_that_is_too_large(opener: SinkOpener) -> None:
    """What the receiver will never be able to take is refused with the reason."""
    async with grpc_receiver() as receiver:
        receiver.status, receiver.details = grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)"
        with pytest.raises(DeliveryRefused, match="max_receive_message_length"):
            await call(opener, receiver)


async def test_the_receiver_knows_the_deadline(opener: SinkOpener) -> None:
    """The call carries its deadline, so that nobody works for a caller who has left."""
    async with grpc_receiver() as receiver:
        await call(opener, receiver)
        assert 0.5 < receiver.deadlines[0] <= 2.1


async def test_tls(opening: Opening, authority: trustme.CA, ca_file: Path) -> None:
    """With TLS the certificate is verified; an authority of one's own is trusted by option."""
    issued = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    async with grpc_receiver(grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])) as receiver:
        await call(opening(ca_file=ca_file), receiver)
        assert len(receiver.requests) == 1
        with pytest.raises(Unavailable, match="certificate"):
            await call(opening(), receiver)


async def test_a_plain_receiver_for_a_tls_sink(opening: Opening, ca_file: Path) -> None:
    """Nothing is sent in clear where TLS was asked for."""
    async with grpc_receiver() as receiver:
        receiver.spec = type(receiver.spec)(receiver.spec.kind, receiver.spec.address, tls=True)
        with pytest.raises(Unavailable):
            await call(opening(ca_file=ca_file), receiver)
        assert receiver.requests == []


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    """The messages in the package are those of protos/inference_result.proto, service and Java options included."""
    out = tmp_path / "descriptors"
    line = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTOS), f"--descriptor_set_out={out}", "inference_result.proto"]
    subprocess.run(line, check=True, capture_output=True)
    (fresh,) = FileDescriptorSet.FromString(out.read_bytes()).file
    committed = FileDescriptorProto()
    inference_result_pb2.DESCRIPTOR.CopyToProto(committed)
    # What a compiler writes to files names every field for JSON, too.
    for message in fresh.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert committed == fresh
    assert fresh.package == ""
    assert fresh.options.java_package == "org.dubhe.inference.grpc"
    assert fresh.options.java_outer_classname == "InferenceCallbackProto"
    assert fresh.options.java_multiple_files
    assert fresh.service[0].method[0].name == "checkpoint"

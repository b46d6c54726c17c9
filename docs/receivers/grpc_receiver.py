"""Receives alerts by gRPC and prints them.

pip install grpcio grpcio-tools
python grpc_receiver.py [PORT]      with inference_result.proto (from protos/) beside it
"""

import base64
import json
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1] / "protos")]
messages, services = grpc.protos_and_services("inference_result.proto")


class Receiver(services.InferenceCallbackServiceServicer):  # type: ignore[misc,name-defined]  # made from the proto
    """Answers every alert; it may come twice, when an answer got lost."""

    def checkpoint(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002 - gRPC's signature
        """One alert."""
        alert = json.loads(request.analysis_result)
        print(f"stream {request.task_id}:{alert['msg']}")
        for face in alert["face_data"]:
            crop = len(base64.b64decode(face["base64_str"]))
            print(
                f"  {'new' if face['new_face'] else 'still'} {face['name']} {face['conf']:.2f} at {face['bbox'][:4]}, {crop} bytes of JPEG"
            )
        print(f"  frame: {len(base64.b64decode(alert['image']))} bytes of JPEG", flush=True)
        return messages.InferenceCallbackResponse(code=200, msg="ok")


def main() -> None:
    """Serve until interrupted."""
    # Frames are larger than what gRPC takes by itself.
    server = grpc.server(futures.ThreadPoolExecutor(10), options=[("grpc.max_receive_message_length", 32 * 2**20)])
    services.add_InferenceCallbackServiceServicer_to_server(Receiver(), server)
    port = server.add_insecure_port(f"[::]:{sys.argv[1] if len(sys.argv) > 1 else 50051}")
    server.start()
    print(f"receiving on port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()

"""A receiver of events that writes down what it acknowledges: ``python -m benchmarks.receiving KIND PORT FILE``.

Each event is a line ``STREAM NAME`` of the file, written before it is acknowledged: ``NAME`` is the id of
a webhook's event, the times of a gRPC callback, which has no ids. While a file ``FILE.refuse`` exists, webhooks
are answered with 503 and callbacks with RESOURCE_EXHAUSTED. Prints ``ready PORT``.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from face_server.sinks.grpc_callback import METHOD
from face_server.sinks.inference_result_pb2 import InferenceCallbackRequest, InferenceCallbackResponse


class Book:
    """The file. What is in it survives the death of this process."""

    def __init__(self, path: Path) -> None:
        self._refusal = path.with_name(path.name + ".refuse")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether events are to be refused."""
        return self._refusal.exists()

    def note(self, stream_id: str, name: str) -> None:
        """Write an event down."""
        with self._lock:
            os.write(self._file, f"{stream_id} {name}\n".encode())


def receive_webhooks(port: int, book: Book) -> None:
    """Serve for ever."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            refused = book.closed
            if not refused:
                book.note(event["stream_id"], event["id"])
            self.send_response(503 if refused else 204)
            if refused:
                self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is http.server's
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"ready {server.server_port}", flush=True)
    server.serve_forever()


def receive_callbacks(port: int, book: Book) -> None:
    """Serve for ever."""

    def checkpoint(request: InferenceCallbackRequest, context: grpc.ServicerContext) -> InferenceCallbackResponse:
        if book.closed:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        alert = json.loads(request.analysis_result)
        book.note(request.task_id, callback_name(alert["behaviorBeginTime"], alert["behaviorEndTime"]))
        return InferenceCallbackResponse(code=200, msg="ok")

    # Only one may listen, so that two servers never share the calls.
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 32 * 2**20)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    handler = grpc.unary_unary_rpc_method_handler(
        checkpoint, InferenceCallbackRequest.FromString, InferenceCallbackResponse.SerializeToString
    )
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"ready {port}", flush=True)
    server.wait_for_termination()


def callback_name(begin_ms: int, end_ms: int) -> str:
    """What stands for the id of an event in a callback."""
    return f"{begin_ms}-{end_ms}"


RECEIVERS = {"webhook": receive_webhooks, "grpc": receive_callbacks}

if __name__ == "__main__":
    RECEIVERS[sys.argv[1]](int(sys.argv[2]), Book(Path(sys.argv[3])))

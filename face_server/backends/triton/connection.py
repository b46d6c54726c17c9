"""One gRPC channel to a Triton server: messages in, messages out."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from face_server.backends.triton.options import SharedMemory, TritonOptions
from face_server.errors import ConfigurationError
from face_server.workers import Workers

_INFER = "/inference.GRPCInferenceService/ModelInfer"


class Connection:
    """Sends every call with the headers and a deadline. Raises ``grpc.aio.AioRpcError``.

    tritonclient gives the messages and the methods. Its own client builds and reads messages on the
    event loop, and turns errors into text; here an inference is bytes, made wherever they are made.
    """

    def __init__(self, endpoint: str, options: TritonOptions, credentials: grpc.ChannelCredentials | None) -> None:
        settings = _settings(options)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(endpoint, settings)
        else:
            self._channel = grpc.aio.secure_channel(endpoint, credentials, settings)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_unary(_INFER, request_serializer=None, response_deserializer=None)
        self._headers = tuple((name.lower(), value) for name, value in options.headers.items())
        self._timeout_s = options.connect_timeout_s

    @property
    def ready(self) -> bool:
        """Whether the connection that was last used still stands; a server that was started anew has none."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    def infer(self, message: bytes, timeout_s: float) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """Send an encoded ModelInferRequest; awaiting the call gives the encoded response. Cancelling it cancels it on the server."""
        return self._infer(message, timeout=timeout_s, metadata=self._headers)

    async def ask(self, method: str, request: Any) -> Any:
        """Call another method of the service, which has ``connect_timeout_s`` to answer."""
        return await getattr(self._stub, method)(request, timeout=self._timeout_s, metadata=self._headers)

    async def close(self) -> None:
        """End the connection and every call on it."""
        await self._channel.close(None)


async def credentials(options: TritonOptions, workers: Workers) -> grpc.ChannelCredentials | None:
    """What TLS needs, None without it. Raises ConfigurationError for files that cannot be used."""
    return await workers.run(_read_credentials, options) if options.tls else None


def _read_credentials(options: TritonOptions) -> grpc.ChannelCredentials:
    authorities, certificate, key = options.ca_file, options.certificate_file, options.key_file
    # gRPC takes any bytes and then fails each handshake; OpenSSL says now which file is wrong.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
        if certificate is not None:
            # gRPC takes no password, and without one here OpenSSL would wait for somebody to type it.
            context.load_cert_chain(certificate, key, password="")
        return grpc.ssl_channel_credentials(_bytes(authorities), _bytes(key), _bytes(certificate))
    except OSError as error:
        files = ", ".join(str(file) for file in (authorities, certificate, key) if file is not None)
        reason = error.strerror or str(error)
        raise ConfigurationError(f"the certificate files of the Triton backend cannot be used ({files}): {reason}") from error


def _bytes(file: Path | None) -> bytes | None:
    return file.read_bytes() if file is not None else None


def _settings(options: TritonOptions) -> list[tuple[str, int | str]]:
    # Regions are registered with one server; a name behind which there are several can be used only without them.
    spread: list[tuple[str, int | str]] = [("grpc.lb_policy_name", "round_robin")] if options.shared_memory is SharedMemory.OFF else []
    return [
        *spread,
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", int(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.connect_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Whether a call may be sent again, and where to, is decided above.
        ("grpc.enable_retries", 0),
        # A connection of its own, whose loss it can see.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(options.connect_timeout_s * 1000)),
        ("grpc.max_reconnect_backoff_ms", 500),
        # Inference servers are neighbours: a proxy for the internet is not on the way to them.
        ("grpc.enable_http_proxy", 0),
    ]

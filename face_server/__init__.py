"""face_server: who is in this image, on this camera, in this video."""

import os

__version__ = "0.1.0"

# gRPC prints each failed handshake and other news of its own on stderr, past every logger. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

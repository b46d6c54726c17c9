"""face_server: who is in this image, on this camera, in this video."""

__version__ = "0.1.0"

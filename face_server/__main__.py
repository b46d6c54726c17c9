"""``python -m face_server`` is the command ``face-server``."""

from face_server.cli import main

main()

"""A stretch of network that takes every connection and drops it after a while."""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Self


class CuttingProxy:
    """Passes connections on to a port of loopback, and cuts each after ``life_s``."""

    def __init__(self, target: int, life_s: float = 1.0) -> None:
        self._target = target
        self._life_s = life_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._began: list[float] = []
        self.port: int = self._listener.getsockname()[1]

    def gaps(self) -> list[float]:
        """Seconds from each connection to the next."""
        return [later - earlier for earlier, later in itertools.pairwise(self._began)]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Wakes the thread that accepts, which closing alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._began.append(time.monotonic())
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        until = time.monotonic() + self._life_s
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target), 5) as server:
            other = {client: server, server: client}
            while (left := until - time.monotonic()) > 0:
                ready, _, _ = select.select(list(other), [], [], left)
                for side in ready:
                    if not (data := side.recv(65536)):
                        return
                    other[side].sendall(data)

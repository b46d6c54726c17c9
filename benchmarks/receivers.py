"""Receivers of events and of pictures, each a process that can be killed, frozen and started again on the same port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = "mosquitto"
NGINX = Path("/usr/sbin/nginx")
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")

_START_S = 30.0


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_mosquitto() -> str | None:
    """The broker's program; Debian keeps it where not everybody looks."""
    return shutil.which(MOSQUITTO, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Receiver(Protocol):
    """Somewhere the events of a service go. It keeps its port."""

    def sink(self) -> dict[str, Any]:
        """The sink of a stream that sends here."""
        ...

    def name(self, event: dict[str, Any]) -> str:
        """What an event of the journal is called here."""
        ...

    def received(self) -> dict[str, list[str]]:
        """The names of the events that were acknowledged, stream by stream in the order of their arrival."""
        ...

    def start(self) -> Self:
        """Be there."""
        ...

    def kill(self) -> None:
        """Be gone, without a word to anybody."""
        ...

    def freeze(self) -> None:
        """Stand still with every connection open."""
        ...

    def thaw(self) -> None:
        """Go on."""
        ...

    def close(self) -> None:
        """End for good."""
        ...


@dataclass
class _Process:
    """A child process that is killed, frozen and thawed."""

    process: subprocess.Popen[str] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None

    def kill(self) -> None:
        if self.process is not None:
            with self.process:
                self.process.kill()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)


def _wait_until_it_listens(port: int, what: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{what} did not start")


@dataclass
class Notebook:
    """A webhook or gRPC receiver that writes down what it acknowledges (``benchmarks.receiving``)."""

    kind: str
    folder: Path
    port: int = 0
    _child: _Process = field(default_factory=_Process)

    def sink(self) -> dict[str, Any]:
        """See Receiver. Only people and strangers who come are callbacks."""
        return {"kind": self.kind, "address": f"127.0.0.1:{self.port}" if self.kind == "grpc" else f"http://127.0.0.1:{self.port}/events"}

    def name(self, event: dict[str, Any]) -> str:
        """See Receiver."""
        return f"{_ms(event['started_at'])}-{_ms(event['ended_at'])}" if self.kind == "grpc" else str(event["id"])

    def received(self) -> dict[str, list[str]]:
        """See Receiver."""
        found: dict[str, list[str]] = {}
        if self._book.exists():
            for line in self._book.read_text("utf-8").splitlines():
                stream_id, _, name = line.partition(" ")
                found.setdefault(stream_id, []).append(name)
        return found

    def refuse(self, *, on: bool) -> None:
        """Answer every event with an error that passes, or no longer."""
        refusal = self._book.with_name(self._book.name + ".refuse")
        if on:
            refusal.touch()
        else:
            refusal.unlink()

    def start(self) -> Self:
        """See Receiver. Does nothing while it is there."""
        if not self._child.runs:
            line = [sys.executable, "-m", "benchmarks.receiving", self.kind, str(self.port), str(self._book)]
            process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parent.parent)
            self._child = _Process(process)
            assert process.stdout is not None
            word, _, port = process.stdout.readline().partition(" ")
            if word != "ready":
                raise RuntimeError(f"the {self.kind} receiver did not start")
            self.port = int(port)
        return self

    def kill(self) -> None:
        """See Receiver."""
        self._child.kill()

    def freeze(self) -> None:
        """See Receiver."""
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """See Receiver."""
        self._child.signal(signal.SIGCONT)

    def close(self) -> None:
        """See Receiver."""
        self.kill()

    @property
    def _book(self) -> Path:
        return self.folder / f"{self.kind}.book"


@dataclass
class Broker:
    """Mosquitto on a port of its own, and somebody who listens to all it says. Its sessions survive it."""

    folder: Path
    port: int = field(default_factory=free_port)
    _events: dict[str, list[str]] = field(default_factory=dict)
    _child: _Process = field(default_factory=_Process)
    _listener: mqtt.Client | None = None
    _listens: threading.Event = field(default_factory=threading.Event)

    def sink(self) -> dict[str, Any]:
        """See Receiver."""
        return {"kind": "mqtt", "address": f"mqtt://127.0.0.1:{self.port}", "topic": "faces"}

    def name(self, event: dict[str, Any]) -> str:
        """See Receiver."""
        return str(event["id"])

    def received(self) -> dict[str, list[str]]:
        """See Receiver."""
        return {stream_id: list(names) for stream_id, names in self._events.items()}

    def start(self) -> Self:
        """See Receiver."""
        if self._child.runs:
            return self
        program = find_mosquitto()
        if program is None:
            raise RuntimeError("mosquitto is not installed")
        config = self.folder / "mosquitto.conf"
        # Told to be root, it would give up root and then not read its own folder.
        keeping = (
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "user root",
        )
        config.write_text("\n".join([f"listener {self.port} 127.0.0.1", "allow_anonymous true", *keeping, ""]))
        quiet = subprocess.DEVNULL
        self._child = _Process(subprocess.Popen([program, "-c", str(config)], stdout=quiet, stderr=quiet, text=True))
        _wait_until_it_listens(self.port, "mosquitto")
        if self._listener is None:
            self._listen()
        if not self._listens.wait(_START_S):
            raise RuntimeError("the listener did not reach the broker")
        return self

    def kill(self) -> None:
        """See Receiver."""
        self._listens.clear()
        self._child.kill()

    def freeze(self) -> None:
        """See Receiver."""
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """See Receiver."""
        self._child.signal(signal.SIGCONT)

    def close(self) -> None:
        """See Receiver."""
        if self._listener is not None:
            self._listener.disconnect()
            self._listener.loop_stop()
        self._child.kill()

    def _listen(self) -> None:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._subscribe
        client.on_subscribe = lambda *_: self._listens.set()
        client.on_message = self._note
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        self._listener = client

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe("faces/+/event", qos=1)

    def _note(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        event = json.loads(message.payload)
        self._events.setdefault(event["stream_id"], []).append(event["id"])


@dataclass
class MediaServer:
    """nginx with its RTMP module on a port of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    _child: _Process = field(default_factory=_Process)

    @staticmethod
    def missing() -> str:
        """What this machine lacks; empty if nothing."""
        return "" if NGINX.exists() and RTMP_MODULE.exists() else "nginx with its RTMP module (apt: nginx-light libnginx-mod-rtmp)"

    @property
    def url(self) -> str:
        """Where streams are published to."""
        return f"rtmp://127.0.0.1:{self.port}/live/{{id}}"

    def start(self) -> Self:
        """Run it; returns when it listens."""
        config = self.folder / "nginx.conf"
        config.write_text(
            f"load_module {RTMP_MODULE};\ndaemon off;\nmaster_process off;\n"
            f"error_log {self.folder}/error.log;\npid {self.folder}/nginx.pid;\n"
            "events { worker_connections 64; }\n"
            f"rtmp {{ server {{ listen 127.0.0.1:{self.port}; application live {{ live on; }} }} }}\n"
        )
        (self.folder / "logs").mkdir(exist_ok=True)
        line = [str(NGINX), "-p", str(self.folder), "-c", str(config)]
        self._child = _Process(subprocess.Popen(line, stderr=subprocess.DEVNULL, text=True))
        _wait_until_it_listens(self.port, "nginx")
        return self

    def kill(self) -> None:
        """End without a word to anybody."""
        self._child.kill()

    def freeze(self) -> None:
        """Stand still with every connection open."""
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._child.signal(signal.SIGCONT)


def _ms(time_of_journal: str) -> int:
    """Unix milliseconds of a time as events have it."""
    return round(datetime.fromisoformat(time_of_journal).timestamp() * 1000)

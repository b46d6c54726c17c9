"""`make redis-demo`: one Redis, two servers. What one learns the other knows, and when one dies the other runs its camera.

    python -m benchmarks.redis_demo [--photo FILE] [--video FILE] [--data data] [--once]

Without files, the picture and the camera show a drawn face. ``--once`` ends after the story instead
of serving until Ctrl-C.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.camera_thread import CameraThread
from benchmarks.demos import arguments_parser, draw_photo, draw_visits
from benchmarks.receivers import Notebook
from benchmarks.redis_server import PROGRAM, RedisServer, missing
from benchmarks.service import Service

STREAM = "entrance"
NAME = "Ada Lovelace"
RULES = {"absence_s": 1, "realert_s": 0, "realert_on_return": True, "max_fps": 5}
TAKEN_OVER_S = 10.0

_VISIBLE_S = 2.0
_SEEN_S = 60.0
_SEEN = frozenset({"person_seen", "stranger_seen"})
_PEOPLE = "/v1/collections/default"

out = Console(highlight=False, soft_wrap=True)


def enrol(service: Service, photo: Path) -> dict[str, Any]:
    """Enrol the face of a picture, and return what to look for it with."""
    picture = {"images": [base64.b64encode(photo.read_bytes()).decode()]}
    out.print(f"$ curl -F name='{NAME}' -F images=@{photo.name} http://127.0.0.1:{service.port}{_PEOPLE}/identities", style="bold")
    enrolled = service.send("POST", f"{_PEOPLE}/identities", {"name": NAME, **picture, "override": True})
    out.print(f"  {NAME} is enrolled on the first as {enrolled['identity']['id']}")
    return picture


def identify(service: Service, picture: dict[str, Any]) -> None:
    """Ask the other server who that is, until it knows. Raises TimeoutError if it does not learn it."""
    found: list[dict[str, Any]] = []

    def named() -> bool:
        faces = service.send("POST", f"{_PEOPLE}/identify", picture)["images"][0]["faces"]
        found[:] = [face["match"] for face in faces if face["match"]]
        return bool(found)

    began = time.monotonic()
    service.wait_for(named, _VISIBLE_S, "the second to know who was enrolled on the first")
    out.print(f"$ curl -F images=@… http://127.0.0.1:{service.port}{_PEOPLE}/identify", style="bold")
    out.print(f"  the second names {found[0]['identity']['name']} ({found[0]['similarity']:.2f}), {time.monotonic() - began:.2f} s later")


class Story:
    """What happens on the camera, as any server tells it, line by line."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def read(self, service: Service) -> bool:
        """Print what is new; whether there was anything."""
        after = self.events[-1]["cursor"] if self.events else 0
        fresh = service.get("/v1/events", after=after, limit=1000)["events"]
        for event in fresh:
            who = f"{event['who']['name']} ({event['who']['similarity']:.2f})" if event.get("who") else event["message"]
            out.print(f"  {event['at'][11:19]}  {event['kind'].replace('_', ' '):<16}  {who}")
        self.events += fresh
        return bool(fresh)

    def until_seen(self, service: Service, times: int) -> None:
        """Read on until people were seen ``times`` more often."""
        wanted = self._seen() + times

        def seen() -> bool:
            self.read(service)
            return self._seen() >= wanted

        service.wait_for(seen, _SEEN_S, "somebody to be seen on the camera")

    def _seen(self) -> int:
        return sum(event["kind"] in _SEEN for event in self.events)


def kill(first: Service, second: Service, story: Story) -> None:
    """Kill the server that runs the camera, and wait until the other one does."""
    owner = second.status(STREAM)["replica"]
    if not owner.endswith(f":{first.port}"):
        raise SystemExit(f"the camera runs on {owner}, not on the first")
    out.print(f"The camera runs on {owner}, the first; both answer for it.")
    out.print(f"$ kill -9 {first.pid}", style="bold red")
    first.kill()
    began = time.monotonic()

    def taken_over() -> bool:
        story.read(second)
        status = second.status(STREAM)
        return bool(status["replica"] != owner and status["state"] == "running" and status["analysed"])

    second.wait_for(taken_over, TAKEN_OVER_S, "the second to run the camera")
    out.print(
        f"  the camera runs on {second.status(STREAM)['replica']}, the second, after {time.monotonic() - began:.1f} s", style="bold green"
    )


def account(service: Service, story: Story, receiver: Notebook) -> None:
    """Stop the camera, and compare what the journal has with what was shown and what the receiver got. Raises SystemExit."""
    service.send("PATCH", f"/v1/streams/{STREAM}", {"enabled": False})
    service.wait_for(lambda: service.status(STREAM)["state"] == "stopped", 10, "the camera to stop")
    story.read(service)
    stored = [event["id"] for event in service.get("/v1/events", after=0, limit=1000)["events"]]
    with suppress(TimeoutError):
        service.wait_for(lambda: set(receiver.received().get(STREAM, [])) >= set(stored), 30, "the receiver to have everything")
    received = receiver.received().get(STREAM, [])
    missing_ones = {event["id"] for event in story.events} - set(stored) | set(stored) ^ set(received)
    again = (Counter(received) - Counter(set(received))).total()
    came = f"the receiver has {len(set(received))} and got {again} again"
    out.print(f"{len(stored)} events are in the journal, {came}; {len(missing_ones)} missing.")
    if missing_ones:
        raise SystemExit("events are missing")


@contextmanager
def servers(folder: Path, data: Path, redis: RedisServer) -> Iterator[tuple[Service, Service]]:
    """Two servers that share the Redis, each with a data folder of its own."""
    out.print(f"$ redis-server --port {redis.port} --appendonly yes --appendfsync always", style="bold")
    environment = {"FACE_SERVER_STATE__REDIS_URL": redis.url, "FACE_SERVER_STREAMS__SECRET_KEY": secrets.token_hex(32)}
    out.print(f"$ export FACE_SERVER_STATE__REDIS_URL={redis.url} FACE_SERVER_STREAMS__SECRET_KEY=$(openssl rand -hex 32)", style="bold")
    made = []
    for name in ("first", "second"):
        (folder / name).mkdir()
        made.append(Service(folder / name, environment=environment, models=data / "models"))
    with made[0] as first, made[1] as second:
        for name, service in (("first", first), ("second", second)):
            out.print(f"$ face-server serve --port {service.port} --data {name}", style="bold")
        out.print(f"Two servers are ready: http://127.0.0.1:{first.port} and http://127.0.0.1:{second.port}")
        yield first, second


def tell(arguments: argparse.Namespace, folder: Path) -> None:
    """The demonstration."""
    photo = arguments.photo or draw_photo(folder / "drawn.jpg")
    video = arguments.video or draw_visits(folder / "drawn.mp4")
    for name in ("redis", "receiver"):
        (folder / name).mkdir()
    receiver = Notebook("webhook", folder / "receiver").start()
    redis = RedisServer(folder / "redis")
    try:
        with redis, CameraThread(video) as camera, servers(folder, arguments.data, redis) as (first, second):
            identify(second, enrol(first, photo))
            spec = {"url": camera.urls[0], "rules": RULES, "sinks": [receiver.sink()]}
            out.print(f"$ curl -X PUT http://127.0.0.1:{first.port}/v1/streams/{STREAM} …", style="bold")
            first.send("PUT", f"/v1/streams/{STREAM}", spec)
            out.print(
                f"The camera is registered on the first, its events go to {receiver.sink()['address']}; the second reads what happens:"
            )
            story = Story()
            story.until_seen(second, 2)
            kill(first, second, story)
            story.until_seen(second, 2)
            account(second, story, receiver)
            if arguments.once:
                return
            second.send("PATCH", f"/v1/streams/{STREAM}", {"enabled": True})
            out.print(f"Open http://127.0.0.1:{second.port}/ and its Cameras view. Ctrl-C ends everything.", style="bold green")
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
    finally:
        receiver.close()


def main() -> None:
    """Tell the story."""
    parser = arguments_parser(__doc__)
    arguments = parser.parse_args()
    if reason := missing():
        parser.exit(1, f"{reason}: install {PROGRAM} 7.0 or newer first, on Debian and Ubuntu with `apt-get install redis-server`\n")
    with tempfile.TemporaryDirectory(prefix="redis-demo-") as folder:
        tell(arguments, Path(folder))


if __name__ == "__main__":
    main()

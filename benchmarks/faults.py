"""Cameras, receivers, the media server and the service itself are made to fail, and what was lost is counted.

``python -m benchmarks.faults [--only NAME] [--rounds N] [--out docs/benchmarks.md]``. The tests run a part of it.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cameras import CameraStandIn
from benchmarks.flapping import CuttingProxy
from benchmarks.receivers import Broker, Notebook, Receiver
from benchmarks.report import machine, replace_section, table
from benchmarks.service import MODELS
from benchmarks.site import STREAMS, MakeReceiver, Outcome, Site, open_site, webhook

Fault = Callable[[Site], None]

_FLAPPING_S = 45.0
_GARBLED_AFTER_S = 4.0
_RATE_S = 8.0


def camera_killed(site: Site) -> None:
    """Cameras vanish for six seconds."""
    _away(site, CameraStandIn.kill, 6, CameraStandIn.start)


def camera_frozen(site: Site) -> None:
    """Cameras stand still for ten seconds with their connections open."""
    _away(site, CameraStandIn.freeze, 10, CameraStandIn.thaw)


def camera_silent(site: Site) -> None:
    """Cameras answer but send no pictures for ten seconds."""
    _away(site, CameraStandIn.silence, 10, CameraStandIn.speak)


def camera_garbled(site: Site) -> None:
    """Cameras send noise from the fifth second of every connection on, then are replaced."""
    site.each(lambda camera: camera.restart(garble_after_s=_GARBLED_AFTER_S))
    site.server.wait_for(lambda: site.running() >= set(site.ids()), 30, "all streams to run")
    noise_at = time.monotonic() + _GARBLED_AFTER_S
    site.wait_until_noticed(noise_at)
    site.remark = site.reason()
    time.sleep(max(0.0, noise_at + 10 - time.monotonic()))
    site.each(lambda camera: camera.restart(garble_after_s=None))
    site.note_back()


def camera_without_keyframes(site: Site) -> None:
    """Cameras come back and send pictures of which none can be decoded, as they never send a keyframe."""
    site.each(lambda camera: camera.restart(no_keyframes=True))
    site.server.wait_for(lambda: all(status["connected"] for status in site.server.statuses().values()), 30, "a connection")
    since = time.monotonic()
    named = lambda: all("picture" in status["reason"] for status in site.server.statuses().values())  # noqa: E731 - read once
    site.server.wait_for(named, 30, "the lack of pictures to be named")
    site.noticed_s.append(time.monotonic() - since)
    site.remark = site.reason()
    time.sleep(max(0.0, since + 10 - time.monotonic()))
    site.each(lambda camera: camera.restart(no_keyframes=False))
    site.note_back()


def camera_resized(site: Site) -> None:
    """Cameras change the size of their pictures at every loop, in the midst of the connection, then come back with the old one."""
    site.each(lambda camera: camera.restart(sizes=("320x180", "640x360")))
    site.wait_until_running()
    sizes = {status["width"] for status in site.server.statuses().values()}
    site.server.wait_for(lambda: {one["width"] for one in site.server.statuses().values()} != sizes, 90, "another size")
    site.note_back()
    site.each(lambda camera: camera.restart(sizes=()))
    site.note_back()


def password_changed(site: Site) -> None:
    """Somebody changes the password of the cameras; the operator hears of it and tells the service."""
    password = f"changed-{random.getrandbits(32)}"
    site.each(lambda camera: camera.restart(user="admin", password=password))
    known = lambda: {one["code"] for one in site.server.statuses().values()} == {"source_credentials"}  # noqa: E731 - read once
    site.noticed_s.append(site.server.wait_for(known, 30, "the wrong password to be named"))
    for stream_id, camera in zip(site.ids(), site.cameras, strict=True):
        site.server.send("PATCH", f"/v1/streams/{stream_id}", {"url": camera.url})
    site.note_back()


def camera_flaps(site: Site) -> None:
    """A camera takes every connection and drops it after a second; it is tried ever more slowly."""
    with CuttingProxy(site.cameras[0].port) as proxy:
        camera = site.cameras[0]
        site.server.send("PATCH", f"/v1/streams/{site.ids()[0]}", {"url": camera.url.replace(f":{camera.port}/", f":{proxy.port}/")})
        time.sleep(_FLAPPING_S)
        gaps = proxy.gaps()
        site.remark = f"{len(gaps) + 1} connections in {_FLAPPING_S:.0f} s, the last {max(gaps[-2:], default=0.0):.0f} s apart"
        site.server.send("PATCH", f"/v1/streams/{site.ids()[0]}", {"url": camera.url})
    site.note_back()


def receiver_killed(site: Site) -> None:
    """The receiver of events is away for ten seconds."""
    site.receiver.kill()
    time.sleep(10)
    site.receiver.start()


def receiver_frozen(site: Site) -> None:
    """The receiver takes connections and answers nothing for fifteen seconds."""
    site.receiver.freeze()
    time.sleep(15)
    site.receiver.thaw()


def receiver_refuses(site: Site) -> None:
    """The receiver answers that it is busy for ten seconds."""
    assert isinstance(site.receiver, Notebook)
    site.receiver.refuse(on=True)
    time.sleep(10)
    site.receiver.refuse(on=False)


def media_server_killed(site: Site) -> None:
    """The media server vanishes for ten seconds."""
    _unpublished(site, site.media.kill, site.media.start)


def media_server_frozen(site: Site) -> None:
    """The media server stands still for ten seconds with its connections open."""
    _unpublished(site, site.media.freeze, site.media.thaw)


def service_killed(site: Site) -> None:
    """The service is killed at some moment while events flow, and started again."""
    site.wait_for_events(1)
    time.sleep(random.uniform(0, 2))
    site.server.kill()
    site.server.start()
    site.note_back()


def service_killed_receiver_away(site: Site) -> None:
    """The same while the receiver is away every other time."""
    site.receiver.kill()
    service_killed(site)
    site.receiver.start()
    service_killed(site)


def service_restarted(site: Site) -> None:
    """The service is stopped politely and started again; a stream that was switched off meanwhile stays so."""
    off, removed = "switched-off", "removed"
    for stream_id in (off, removed):
        site.add(stream_id, site.cameras[0].url)
    site.server.wait_for(lambda: {off, removed} <= site.running(), 30, "two more streams to run")
    site.server.send("PATCH", f"/v1/streams/{off}", {"enabled": False})
    site.server.send("DELETE", f"/v1/streams/{removed}")
    began = time.monotonic()
    if code := site.server.stop():
        raise RuntimeError(f"the service ended with {code}")
    site.remark = f"stopped in {time.monotonic() - began:.1f} s"
    site.server.start()
    site.note_back()
    known = site.server.statuses()
    if removed in known or known[off]["state"] != "stopped":
        raise RuntimeError(f"a stream that was removed or switched off is back: {known}")
    site.server.send("DELETE", f"/v1/streams/{off}")


def service_frozen(site: Site) -> None:
    """The whole service stands still for eight seconds."""
    site.server.send_signal(signal.SIGSTOP)
    time.sleep(8)
    site.server.send_signal(signal.SIGCONT)
    site.note_back()


def _away(site: Site, go: Callable[[CameraStandIn], object], seconds: float, come_back: Callable[[CameraStandIn], object]) -> None:
    """Something happens to every camera, is noticed, and is over after ``seconds``."""
    site.each(go)
    since = time.monotonic()
    site.wait_until_noticed(since)
    time.sleep(max(0.0, since + seconds - time.monotonic()))
    site.each(come_back)
    site.note_back()


def _unpublished(site: Site, go: Callable[[], object], come_back: Callable[[], object]) -> None:
    """The media server fails while pictures are published; analysis must not suffer."""

    def published() -> bool:
        return {one["publishing"] for one in site.server.statuses().values()} == {"publishing"}

    site.server.wait_for(published, 30, "pictures to be published")
    before = site.rate(_RATE_S)
    analysed, since = site.analysed(), time.monotonic()
    go()
    site.noticed_s.append(site.server.wait_for(lambda: not published(), 20, "the media server to be missed"))
    time.sleep(max(0.0, since + _RATE_S - time.monotonic()))
    took = time.monotonic() - since
    during = min(count - analysed[stream_id] for stream_id, count in site.analysed().items()) / took
    come_back()
    site.back_s.append(site.server.wait_for(published, 60, "pictures to be published again"))
    site.remark = f"analysed {before:.1f} → {during:.1f} fps"


def _grpc(folder: Path) -> Receiver:
    return Notebook("grpc", folder)


def _broker(folder: Path) -> Receiver:
    return Broker(folder)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, how often it happens, and at what kind of site."""

    fault: Fault
    rounds: int
    receiver: MakeReceiver = webhook
    publish: bool = False


SCENARIOS: dict[str, Scenario] = {
    "camera killed": Scenario(camera_killed, 3),
    "camera frozen (SIGSTOP)": Scenario(camera_frozen, 2),
    "camera connected but silent": Scenario(camera_silent, 2),
    "camera sends garbage": Scenario(camera_garbled, 1),
    "camera without keyframes": Scenario(camera_without_keyframes, 1),
    "camera changes its size": Scenario(camera_resized, 1),
    "camera's password changed": Scenario(password_changed, 1),
    "camera opens and dies": Scenario(camera_flaps, 1),
    "webhook receiver killed": Scenario(receiver_killed, 2),
    "webhook receiver frozen": Scenario(receiver_frozen, 1),
    "webhook receiver answers 503": Scenario(receiver_refuses, 2),
    "gRPC receiver killed": Scenario(receiver_killed, 2, _grpc),
    "gRPC receiver frozen": Scenario(receiver_frozen, 1, _grpc),
    "MQTT broker killed": Scenario(receiver_killed, 2, _broker),
    "MQTT broker frozen": Scenario(receiver_frozen, 1, _broker),
    "media server killed": Scenario(media_server_killed, 2, publish=True),
    "media server frozen": Scenario(media_server_frozen, 2, publish=True),
    "service killed (kill -9)": Scenario(service_killed, 6),
    "service killed, receiver away every other time": Scenario(service_killed_receiver_away, 4),
    "service restarted": Scenario(service_restarted, 1),
    "service frozen (SIGSTOP)": Scenario(service_frozen, 2),
}


def play(site: Site, name: str, rounds: int | None = None) -> Outcome:
    """Play one scenario at a site that fits it, and count."""
    scenario = SCENARIOS[name]
    rounds = rounds or scenario.rounds
    for _ in range(rounds):
        site.wait_for_events(2)
        scenario.fault(site)
    site.wait_for_events(1)
    return site.count(name, rounds)


def run(name: str, videos: Path, models: Path = MODELS, rounds: int | None = None) -> Outcome:
    """Play one scenario at a site of its own."""
    scenario = SCENARIOS[name]
    with open_site(videos, models=models, receiver=scenario.receiver, publish=scenario.publish) as site:
        return replace(play(site, name, rounds), name=name)


def page(outcomes: list[Outcome]) -> str:
    """The table of all scenarios."""
    head = ["fault", "rounds", "events", "lost", "delivered again", "out of order", "streams that run", "noticed, s", "back, s", ""]
    return f"""
## Faults

Measured on {machine()}: {STREAMS} cameras (RTSP), a receiver of events, one service. Events are those in the journal; lost are those that
the receiver never had, and those that the receiver or a reader of `/v1/events` once had and the journal has no longer. What is
delivered again carries the id of the first. Back is from the camera's or the service's return to the third frame that is analysed on
every stream, for a media server until pictures are published again; both times are the worst of all rounds.

{table(head, [one.row() for one in outcomes])}
"""


def main() -> None:
    """Play the scenarios, and print or publish the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    outcomes = []
    for name in chosen.only or SCENARIOS:
        outcomes.append(run(name, chosen.videos, chosen.models, chosen.rounds))
        print(" | ".join(outcomes[-1].row()), flush=True)
    if chosen.out:
        replace_section(chosen.out, "faults", page(outcomes))


if __name__ == "__main__":
    main()

"""Several server processes on one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from face_server.commands.worker_processes import Place, check_workers, replica_of
from face_server.errors import ConfigurationError

SCRIPT = Path(__file__).with_name("worker_family.py")


class Family:
    """A parent with workers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def ask(self, path: str = "/") -> tuple[int, int]:
        """The number and the process id of whoever answers."""
        number, pid = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).text.split()
        return int(number), int(pid)

    def members(self, count: int, timeout_s: float = 20.0) -> dict[int, int]:
        """Ask until that many workers have answered. Their process ids by number."""
        found: dict[int, int] = {}
        end = time.monotonic() + timeout_s
        while len(found) < count:
            assert time.monotonic() < end, found
            number, pid = self.ask()
            found[number] = pid
        return found


@pytest.fixture
def start() -> Iterator[Callable[..., Family]]:
    """Starts families; they end with the test."""
    with ExitStack() as stack:

        def begin(count: int, how: str = "well") -> Family:
            line = [sys.executable, str(SCRIPT), "0", str(count), how]
            process = stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            return Family(process)

        yield begin


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    with suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def until_gone(pids: list[int], timeout_s: float = 5.0) -> None:
    """Wait until none of them runs."""
    end = time.monotonic() + timeout_s
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_good_order(start: Callable[..., Family], number: signal.Signals) -> None:
    """What is under way is answered; the code is 0, nothing is printed, nobody is left."""
    family = start(3)
    members = family.members(3)
    line = [sys.executable, "-c", f"import httpx; print(httpx.get('http://127.0.0.1:{family.port}/slow').text)"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as asking:
        time.sleep(0.6)
        family.process.send_signal(number)
        said = asking.communicate(timeout=10)[0]
    assert int(said.split()[1]) in members.values()
    _, printed = family.process.communicate(timeout=5)
    assert (family.process.returncode, printed) == (0, "")
    until_gone(list(members.values()), 0.5)


def test_a_worker_that_is_killed_is_started_again(start: Callable[..., Family]) -> None:
    """The others go on meanwhile; the log says how it ended."""
    family = start(2)
    members = family.members(2)
    os.kill(members[1], signal.SIGKILL)
    assert family.ask()[0] in (0, 1)
    until_gone([members[1]])
    again = family.members(2)
    assert again[0] == members[0]
    assert again[1] != members[1]
    family.process.terminate()
    assert "worker 1 was ended by SIGKILL; it is started again in 0.1 s" in family.process.communicate(timeout=5)[1]


def test_workers_end_when_their_parent_is_killed(start: Callable[..., Family]) -> None:
    """The port is free again soon."""
    family = start(2)
    members = family.members(2)
    family.process.kill()
    until_gone(list(members.values()))


def test_one_that_does_not_end_is_killed(start: Callable[..., Family]) -> None:
    """After the grace; the code says that something was wrong."""
    family = start(2)
    members = family.members(2)
    os.kill(members[0], signal.SIGSTOP)
    began = time.monotonic()
    family.process.terminate()
    _, printed = family.process.communicate(timeout=10)
    assert 2.5 < time.monotonic() - began < 6
    assert family.process.returncode == signal.SIGKILL
    assert "did not end within 3 s" in printed
    until_gone(list(members.values()))


def test_where_the_first_cannot_start_nothing_does(start: Callable[..., Family]) -> None:
    """Its sentence and its code are those of the command."""
    family = start(3, "fails")
    _, printed = family.process.communicate(timeout=10)
    assert (family.process.returncode, printed) == (7, "cannot start\n")


def test_one_that_dies_again_and_again_is_started_less_and_less_often(start: Callable[..., Family]) -> None:
    """The others serve; a signal during a pause ends everything at once."""
    family = start(2, "dies")
    family.members(1)
    time.sleep(4.0)
    assert family.ask()[0] == 0
    family.process.terminate()
    _, printed = family.process.communicate(timeout=5)
    assert family.process.returncode == 0
    pauses = [line.rpartition(" in ")[2] for line in printed.splitlines() if "ended with code 9" in line]
    assert pauses[:3] == ["0.1 s", "0.2 s", "0.4 s"]
    assert set(pauses[3:]) <= {"0.4 s"}


def test_several_processes_without_redis_are_refused(data: Path, face_server) -> None:
    """With a sentence that says why and what to do; so are replicas that run no streams."""
    for option in (("--workers", 2), ("--no-streams",)):
        ended = face_server("serve", "--port", 0, "--data", data, *option)
        assert (ended.code, ended.out) == (2, "")
        assert "FACE_SERVER_STATE__REDIS_URL" in ended.err
        assert len(ended.err.splitlines()) == 1
    check_workers(1, runs_streams=True, shared=False)
    check_workers(8, runs_streams=False, shared=True)


def test_what_a_worker_is_told_is_checked(data: Path, face_server) -> None:
    """People who find the hidden option learn what it is for."""
    assert Place.parse(str(Place(2, 7, 9))) == Place(2, 7, 9)
    for text in ("", "1:2", "1:2:x", "a:b:c"):
        with pytest.raises(ConfigurationError, match="--as-worker"):
            Place.parse(text)
    assert "--as-worker is for" in face_server("serve", "--data", data, "--as-worker", "0:999:998").err


def test_names_and_addresses_of_replicas() -> None:
    """A worker is reached on a port of its own, on the host that the operator named, or else on this machine."""
    alone = replica_of(None, port=18081, own_port=18081, url="http://hall:18081", runs_streams=False)
    assert (alone.url, alone.runs_streams) == ("http://hall:18081", False)
    assert alone.name.endswith(":18081")
    worker = replica_of(Place(3, 5, 6), port=18081, own_port=40001, url="http://hall:18081", runs_streams=True)
    assert (worker.url, worker.name.rpartition("/")[2]) == ("http://hall:40001", "3")
    assert replica_of(Place(0, 5, 6), port=1, own_port=2, url="", runs_streams=True).url == "http://127.0.0.1:2"
    assert replica_of(Place(0, 5, 6), port=1, own_port=2, url="https://[::1]:9", runs_streams=True).url == "https://[::1]:2"

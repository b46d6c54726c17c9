"""A process that delivers is killed, again and again: nothing that was stored is lost."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.sinks.receivers import broker, http_receiver, until

PROCESS = Path(__file__).with_name("delivering_process.py")


async def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    """Each stored event arrives, in order; one may come twice in a row, with the same id. The broker says that we are gone."""
    (tmp_path / "mqtt").mkdir()
    stored: list[int] = []
    async with http_receiver() as web, broker(tmp_path / "mqtt") as mqtt:
        addresses = [f"http://127.0.0.1:{web.port}/", f"mqtt://127.0.0.1:{mqtt.port}"]

        async def run(count: int) -> asyncio.subprocess.Process:
            line = [sys.executable, str(PROCESS), str(tmp_path), str(len(stored) + 1), str(count), *addresses]
            return await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)

        for patience in (5, 23, 60):
            process = await run(100_000)
            assert process.stdout is not None
            stored += [int(await process.stdout.readline()) for _ in range(patience)]
            process.kill()
            # It may have stored more than it could say.
            stored += [int(line) for line in (await process.stdout.read()).split()]
            await process.wait()
            await until(lambda: any(topic == "faces/availability" and said == b"offline" for topic, said, _ in mqtt.messages))
            mqtt.messages[:] = [message for message in mqtt.messages if message[0] != "faces/availability"]
        last = await run(3)
        stored += [int(line) for line in (await last.communicate())[0].split()]
        assert last.returncode == 0

        async def heard() -> bool:
            return len(set(await mqtt.received())) >= len(set(stored))

        await until(heard, 5)
        for receiver in (web, mqtt):
            arrived = await receiver.received()
            once = list(dict.fromkeys(arrived))
            assert set(once) >= {f"event{number:06d}" for number in stored}
            assert once == sorted(once)
            # A kill falls between delivery and note at most once a life.
            assert len(arrived) - len(once) <= 3

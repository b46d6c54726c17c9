"""docker/Dockerfile, read; and its stages run without an engine, each in a throwaway copy of this machine's root."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY

DOCKER = REPOSITORY / "docker"
DOCKERFILE = DOCKER / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One line: RUN, COPY, …; ``flags`` are its --name=value, ``rest`` what follows them."""

    name: str
    flags: tuple[str, ...]
    rest: str

    @property
    def words(self) -> list[str]:
        """``rest`` as an exec form or as a shell would split it."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass
class Stage:
    """What one FROM begins."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """The instructions of a kind."""
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        """The one that holds."""
        return self.all(name)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        pairs = [word.partition("=") for one in self.all("ENV") for word in one.words]
        return {name: value for name, _, value in pairs}


def stages() -> dict[str, Stage]:
    """The stages by name, in order."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            base, _, alias = rest.split()
            found[alias] = Stage(alias, base)
            continue
        flags = []
        while rest.startswith("--"):
            flag, rest = rest.split(maxsplit=1)
            flags.append(flag)
        list(found.values())[-1].instructions.append(Instruction(name, tuple(flags), rest))
    return found


def why_impossible() -> str:
    """Why stages cannot be run here; empty if they can."""
    if sys.version_info[:2] != (3, 11):
        return "the image cpu has Python 3.11"
    probe = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay x -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"
    )
    try:
        ended = subprocess.run(["unshare", "--mount", "sh", "-c", probe], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare is not installed"
    return "" if ended.returncode == 0 else f"no overlay may be mounted here: {ended.stderr.strip()}"


class Throwaway:
    """Runs stages and then commands in the last one. Roots are overlays of this machine's, gone at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stages = stages()
        self._built: set[str] = set()
        self._script = ["set -eu", f"mount -t tmpfs tmpfs {folder}"]

    def run(self, stage: str, commands: str, timeout: float = 600) -> str:
        """What ``commands`` print in the finished ``stage``: read-only but for /tmp and /data, as its user, with its environment."""
        self._build(stage)
        root, last = self._folder / stage / "root", self._stages[stage]
        uid, gid = last.last("USER").rest.split(":")
        environment = {name: value.replace("$PATH", "/usr/local/bin:/usr/bin:/bin") for name, value in last.environment.items()}
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
        self._script += [
            f"mount -o remount,ro {root}",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
            f"mount -t tmpfs -o uid={uid},gid={gid},mode=700 tmpfs {root}/data",
            f"mount -t tmpfs tmpfs {root}/run",
            f"mkdir {root}/run/secrets",
            f"printf %s {'ab' * 32} >{root}/run/secrets/FACE_SERVER_STREAMS__SECRET_KEY",
            f"chroot --userspec={uid}:{gid} {root} env -i {variables} sh -eu -c {shlex.quote(commands)}",
        ]
        line = ["nice", "-n", "10", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(self._script)]
        ended = subprocess.run(line, check=False, capture_output=True, text=True, timeout=timeout)
        assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        return ended.stdout

    def _build(self, name: str) -> None:
        if name in self._built:
            return
        stage = self._stages[name]
        needed = [flag.split("=", 1)[1] for one in stage.all("COPY") for flag in one.flags if flag.startswith("--from=")]
        needed += [value for one in stage.all("RUN") for flag in one.flags for value in re.findall(r"from=([a-z-]+)", flag)]
        for other in (stage.base, *needed):
            if other in self._stages:
                self._build(other)
        self._built.add(name)
        self._mount(stage)
        folder = "/"
        for one in stage.instructions:
            if one.name == "WORKDIR":
                folder = one.rest
                self._script.append(f"mkdir -p {self._root(name)}{folder}")
            elif one.name == "COPY":
                self._copy(one, name, folder)
            elif one.name == "RUN":
                self._run(one, name, folder)

    def _root(self, stage: str) -> Path:
        return self._folder / stage / "root"

    def _mount(self, stage: Stage) -> None:
        lower, base = [], stage.base
        while base in self._stages:
            lower.append(str(self._folder / base / "upper"))
            base = self._stages[base].base
        folder, root = self._folder / stage.name, self._root(stage.name)
        self._script += [
            f"mkdir -p {folder}/upper {folder}/work {root}",
            f"mount -t overlay x -o lowerdir={':'.join([*lower, '/'])},upperdir={folder}/upper,workdir={folder}/work {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            # Where python:3.11-slim has its Python; here it is this machine's, with libraries that may lie in root's home.
            f"mkdir -p {folder}/python/upper {folder}/python/work",
            f"cd {folder}/python",
            f"mount -t overlay x -o lowerdir={sys.base_prefix},upperdir=upper,workdir=work {root}/usr/local",
            f"ln -sf python3.11 {root}/usr/local/bin/python",
            f"printf '#!/bin/sh\\nexec python -m pip \"$@\"\\n' >{root}/usr/local/bin/pip",
            f"chmod a+x {root}{Path.home()} {root}/usr/local/bin/pip",
        ]

    def _copy(self, one: Instruction, stage: str, folder: str) -> None:
        *sources, target = one.words
        origin = next((str(self._root(flag[7:])) for flag in one.flags if flag.startswith("--from=")), f"{REPOSITORY}/")
        place = f"{self._root(stage)}/{target if target.startswith('/') else f'{folder}/{target}'}"
        if len(sources) > 1 or target.endswith("/"):
            self._script += [f"mkdir -p {place}", f"cp -a {' '.join(origin + source for source in sources)} {place}"]
        else:
            self._script += [f"mkdir -p $(dirname {place})", f"cp -aT {origin}{sources[0]} {place}"]
        self._script += [f"chmod {flag[8:]} {place}" for flag in one.flags if flag.startswith("--chmod=")]

    def _run(self, one: Instruction, stage: str, folder: str) -> None:
        for flag in one.flags:
            bind = dict(part.split("=") for part in flag.removeprefix("--mount=").split(",") if "=" in part)
            source, target = f"{self._root(bind['from'])}{bind['source']}", f"{self._root(stage)}{bind['target']}"
            self._script += [f"mkdir -p {target}", f"cp -aT {source} {target}"]
        path = "PATH=/usr/local/bin:/usr/bin:/bin HOME=/root"
        command = shlex.quote(f"cd {folder} && {one.rest}")
        self._script.append(f"chroot {self._root(stage)} env -i {path} sh -eu -c {command} >&2")

"""Reads a Containerfile, and runs its steps one by one in a root of its own: this machine's files, overlaid.

For a machine without an engine that builds images. It knows the few instructions that our Containerfile uses.
The machine's own Debian stands in for the base image. Takes root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

VARIABLE = re.compile(r"\$\{(\w+)\}")


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What engines give to an image that does not say."""


class Step(NamedTuple):
    """One instruction and what follows it."""

    verb: str
    text: str

    @property
    def words(self) -> list[str]:
        """The text as a list: JSON, or words as in a shell."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


def steps(containerfile: str, **arguments: str) -> list[Step]:
    """The instructions, with the values of ARG filled in. arguments: those of --build-arg."""
    lines = [line for line in containerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    known: dict[str, str] = {}
    found = []
    for line in filter(str.strip, joined.splitlines()):
        verb, _, text = line.partition(" ")
        if verb == "ARG":
            name, _, default = text.strip().partition("=")
            known[name] = arguments.get(name, default)
        found.append(Step(verb, VARIABLE.sub(lambda match: known.get(match[1], match[0]), text.strip())))
    return found


@dataclass
class Stage:
    """A root, and what the steps so far have said of the container."""

    root: Path
    name: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = ""
    volumes: list[str] = field(default_factory=list)
    health: str = ""
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def inside(self, line: list[str], *, more: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `line` in the container, as its user, with nothing but its variables."""
        environ = {"PATH": PATH} | dict(more or {}) | self.variables
        user, _, group = self.user.partition(":")
        who = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all"] if user else []
        return [
            *("chroot", str(self.root), "env", "-i", "-C", self.folder),
            *(f"{name}={value}" for name, value in environ.items()),
            *(["setpriv", "--no-new-privs", *who] if who else []),
            *line,
        ]


class Build:
    """Runs the steps. context: the folder that COPY takes files from. building: variables of RUN alone."""

    def __init__(self, context: Path, work: Path, building: Mapping[str, str]) -> None:
        self._context = context
        self._work = work
        self._building = building
        self._stages: list[Stage] = []
        self._mounts = ExitStack()

    @contextmanager
    def run(self, containerfile: str) -> Iterator[Stage]:
        """Run all steps; within the block the last stage is there."""
        with self._mounts:
            for step in steps(containerfile):
                if step.verb == "FROM":
                    self._begin(step.words[-1] if "AS" in step.words else "")
                elif step.verb != "ARG":
                    getattr(self, f"_{step.verb.lower()}")(step)
            yield self._stages[-1]

    def _begin(self, name: str) -> None:
        at = self._work / f"stage{len(self._stages)}"
        upper, work, root = (at / part for part in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir(parents=True)
        options = f"lowerdir=/,upperdir={upper},workdir={work}"
        mount(self._mounts, root, "-t", "overlay", "overlay", "-o", options)
        mount(self._mounts, root / "proc", "-t", "proc", "proc")
        mount(self._mounts, root / "dev", "--bind", "/dev")
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/local/bin/python").unlink(missing_ok=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")  # as the base image has it
        self._stages.append(Stage(root, name))

    @property
    def _now(self) -> Stage:
        return self._stages[-1]

    def _inside(self, path: str) -> Path:
        return self._now.root / str(Path(self._now.folder, path)).lstrip("/")

    def _workdir(self, step: Step) -> None:
        self._now.folder = step.text
        self._inside(".").mkdir(parents=True, exist_ok=True)

    def _copy(self, step: Step) -> None:
        words, source = step.words, self._context
        if words[0].startswith("--from="):
            name = words.pop(0).removeprefix("--from=")
            source = next(stage.root for stage in self._stages if stage.name == name)
        *names, last = words
        for name in names:
            path = source / name.lstrip("/")
            to = self._inside(last)
            if path.is_dir():
                shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, to / path.name)

    def _run(self, step: Step) -> None:
        line = self._now.inside(["sh", "-c", step.text], more=self._building)
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{step.text}\n{done.stdout}\n{done.stderr}"

    def _env(self, step: Step) -> None:
        self._now.variables |= dict(word.split("=", 1) for word in step.words)

    def _user(self, step: Step) -> None:
        self._now.user = step.text

    def _volume(self, step: Step) -> None:
        self._now.volumes += step.words

    def _healthcheck(self, step: Step) -> None:
        self._now.health = step.text.partition(" CMD ")[2]

    def _entrypoint(self, step: Step) -> None:
        self._now.entry = step.words

    def _cmd(self, step: Step) -> None:
        self._now.command = step.words

    def _expose(self, _step: Step) -> None:
        """Says something to people only."""

    _stopsignal = _expose


def mount(mounts: ExitStack, point: Path, *args: str) -> None:
    """Mount something at `point` until `mounts` is closed."""
    subprocess.run(["mount", *args, str(point)], check=True, capture_output=True)
    mounts.callback(subprocess.run, ["umount", "--lazy", str(point)], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("mount", "chroot", "setpriv")))

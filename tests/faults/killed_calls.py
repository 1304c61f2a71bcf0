"""Engines that make or remove a topic, each in a process that is to be killed on the way.

    python killed_calls.py FOLDER        (tests/ on the path)

FOLDER/base is made at the start: a data folder with a topic `kept`. Then, for every line `NUMBER CHANGE` on
stdin, a child copies it to FOLDER/NUMBER, opens it, and prints its pid; on the next line, `go`, it makes
(`create`) or removes (`delete`) the topic `t`, and the parent prints how the child ended. `careless create`
and `careless delete` are the controls: they work in the catalogue itself instead of beside it.

In the children everything runs on one thread, so that strace can number its system calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from storage.support import numbered, spec, sqlite_engine
from takhin.storage import layout
from takhin.storage.committer import Committer

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0}
KEPT, TOPIC, PARTITIONS, RECORDS = "kept", "t", 2, 5


def on_one_thread() -> None:
    def submit(self, work, done) -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as raised:  # noqa: BLE001  as the threads do
            error = raised
        self._loop.call_soon(done, error)

    async def to_thread(function, *args):
        return function(*args)

    Committer.submit = submit
    asyncio.to_thread = to_thread


def built_before(template: Path) -> None:
    """New files are copied from there, without a process of their own."""
    layout.build = lambda *paths: [shutil.copyfile(template, path) for path in paths]


def careless() -> None:
    """Make and remove topics where they can be seen, piece by piece."""

    def stage(self, num_partitions: int) -> Path:
        folder = self.topics / TOPIC
        folder.mkdir()
        for partition in range(num_partitions):
            shutil.copyfile(self._template(), folder / f"{partition}.db")
        return folder

    layout.DataFolder.stage = stage
    layout.DataFolder.publish = lambda self, stage, topic: None
    layout.DataFolder.retire = lambda self, topic: shutil.rmtree(self.topics / topic)


async def make_base(data: Path, template: Path) -> None:
    engine = sqlite_engine(data, lambda _: None, **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec(KEPT))).partitions[0]
    await log.append(numbered(RECORDS))
    shutil.copyfile(data / "tmp" / "template.db", template)
    await engine.close()


async def change(data: Path, what: str, wait: Callable[[], object]) -> None:
    engine = sqlite_engine(data, lambda _: None, **SETTINGS)
    await engine.open()
    if what == "delete":
        for log in (await engine.create_topic(spec(TOPIC, PARTITIONS))).partitions:
            await log.append(numbered(RECORDS))
    wait()
    if what == "create":
        await engine.create_topic(spec(TOPIC, PARTITIONS))
    else:
        await engine.delete_topic(TOPIC)
    os._exit(0)


def main(folder: Path) -> None:
    template = folder / "template.db"
    asyncio.run(make_base(folder / "base", template))
    on_one_thread()
    built_before(template)
    for line in sys.stdin:
        number, *how, what = line.split()
        shutil.copytree(folder / "base", folder / number)

        def wait() -> None:
            print(os.getpid(), flush=True)
            sys.stdin.readline()

        if (child := os.fork()) == 0:
            try:
                if how:
                    careless()
                asyncio.run(change(folder / number, what, wait))
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.stdin = os.fdopen(0, "r", buffering=1)
    main(Path(sys.argv[1]))

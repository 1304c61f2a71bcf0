"""Engines that create or delete a topic, and restores, each in a process that is to be killed on the way.

    python killed_calls.py FOLDER        (tests/ on the path)

FOLDER/base is made at the start: a data folder with a topic `kept`. Then, for every line `NUMBER CHANGE` on
stdin, a child copies it to FOLDER/NUMBER, opens it, and prints its pid; on the next line, `go`, it creates
(`create`) or deletes (`delete`) the topic `t`, and the parent prints how the child ended.

FOLDER/grown is a data folder of a killed broker, with the topic `t` and its write-ahead logs, FOLDER/backup
an older backup of it, which `restore` and `restore-partition` put back into FOLDER/NUMBER.

`careless create`, `careless delete` and `careless restore` are the controls: they work in the catalogue
itself instead of beside it.

In the children everything runs on one thread, so that strace can number its system calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import structlog

from storage.support import sqlite_engine
from takhin.copies import replace
from takhin.copies import restore as restoring
from takhin.copies.backup import backup
from takhin.copies.restore import Selection
from takhin.disk import folder
from takhin.storage.sqlite.threads import DiskThreads
from takhin.testing.contract import numbered, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0}
KEPT, TOPIC, PARTITIONS, RECORDS = "kept", "t", 2, 5
RESTORES = {
    "restore": Selection(topic=TOPIC, replace=True),
    "restore-partition": Selection(topic=TOPIC, partition=1, replace=True),
}


def on_one_thread() -> None:
    def submit(self, work, done) -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001  as the threads do
            error = raised
        self._loop.call_soon(done, result, error)

    async def to_thread(function, *args, **options):
        return function(*args, **options)

    DiskThreads.submit = submit
    asyncio.to_thread = to_thread
    restoring.ThreadPoolExecutor = NoPool


class NoPool:
    """A stand-in for a thread pool that runs everything on the caller's thread."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    map = staticmethod(map)


def built_before(template: Path) -> None:
    """Copy new files from the template instead of building them in a child process."""
    folder.build = lambda *paths: [shutil.copyfile(template, path) for path in paths]


def careless() -> None:
    """Create and delete topics piece by piece, in the catalogue."""

    @contextmanager
    def staged(self, num_partitions: int, *, first: int = 0) -> Iterator[Path]:
        folder = self.layout.topic(TOPIC)
        folder.mkdir()
        for partition in range(first, num_partitions):
            shutil.copyfile(self._template(), folder / f"{partition}.db")
        yield folder

    folder.DataFolder.staged = staged
    folder.DataFolder.publish = lambda self, stage, topic: None
    folder.DataFolder.retire = lambda self, topic: shutil.rmtree(self.layout.topic(topic))

    def put_topic(self, stage: Path, topic: str) -> None:
        for path in sorted(stage.iterdir()):
            replace.put_file(path, self.folder.layout.topic(topic) / path.name)

    replace.Catalogue.put_topic = put_topic


async def make_base(data: Path, template: Path) -> None:
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec(KEPT))).partitions[0]
    await log.append(numbered(RECORDS))
    shutil.copyfile(data / "tmp" / "template.db", template)
    await engine.close()


async def grow(data: Path, *, killed: bool) -> None:
    """Create the topic, or add as many records to it. `killed`: leave the folder as SIGKILL would."""
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    topic = engine.topics.get(TOPIC) or await engine.create_topic(spec(TOPIC, PARTITIONS))
    for log in topic.partitions:
        await log.append(numbered(RECORDS, log.end_offset))
    if killed:
        os._exit(0)
    await engine.close()


def make_grown(base: Path, grown: Path, copy: Path) -> None:
    shutil.copytree(base, grown)
    asyncio.run(grow(grown, killed=False))
    backup(grown, copy)
    if (child := os.fork()) == 0:
        asyncio.run(grow(grown, killed=True))
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{grown} could not be made")


def put_back(data: Path, copy: Path, what: str, wait: Callable[[], object]) -> None:
    wait()
    restoring.restore(copy, data, RESTORES[what])
    os._exit(0)


async def change(data: Path, what: str, wait: Callable[[], object]) -> None:
    engine = sqlite_engine(data, **SETTINGS)
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
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for process ids
    template = folder / "template.db"
    asyncio.run(make_base(folder / "base", template))
    make_grown(folder / "base", folder / "grown", folder / "backup")
    on_one_thread()
    built_before(template)
    for line in sys.stdin:
        number, *how, what = line.split()
        shutil.copytree(folder / ("grown" if what in RESTORES else "base"), folder / number)

        def wait() -> None:
            print(os.getpid(), flush=True)
            sys.stdin.readline()

        if (child := os.fork()) == 0:
            try:
                if how:
                    careless()
                if what in RESTORES:
                    put_back(folder / number, folder / "backup", what, wait)
                asyncio.run(change(folder / number, what, wait))
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.stdin = os.fdopen(0, "r", buffering=1)
    main(Path(sys.argv[1]))

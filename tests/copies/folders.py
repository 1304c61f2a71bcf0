"""Data folders for the tests of copies: filled by the engine, killed, damaged, read back."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import children
from storage.support import check_files, freeze, sqlite_engine
from takhin.model import CommittedOffset, Header
from takhin.testing.contract import NOW, Stored, batch, name_of, read_all, spec

TOPIC = "orders"
PAGE = 16_384

Content = dict[str, list[list[Stored]]]
"""The records of each partition, by topic."""


def value(number: int) -> bytes:
    """A kilobyte that identifies its record."""
    return b"%d " % number * (1_000 // len(b"%d " % number))


def given(made: Path, data: Path) -> Path:
    """A copy of a folder that was made before."""
    shutil.copytree(made, data)
    return data


async def fill(
    data: Path, *, topic: str = TOPIC, partitions: int = 2, records: int = 600, killed: bool = False
) -> None:
    """Create a topic or add to it: records, some with headers, and a committed offset in partition 0.

    killed: leave the folder as SIGKILL would, with write-ahead logs.
    """
    engine = sqlite_engine(data)
    await engine.open()
    if topic not in engine.topics:
        await engine.create_topic(spec(topic, partitions))
    logs = engine.topics[topic].partitions
    for first in range(0, records, 100):
        for log in logs:
            headers = {0: [Header("at", b"%d" % first), Header("at", b"")]}
            at = log.end_offset
            await log.append(batch(*(value(at + n) for n in range(100)), headers=headers))
    committed = CommittedOffset(logs[0].end_offset, "all", NOW)
    await engine.offsets.commit("billing", {name_of(logs[0]): committed})
    if killed:
        files = await freeze(engine)
        copied = data.with_name(f"{data.name}.killed")
        await children.run("cp", "-r", data, copied)
        files.held = False
    await engine.close()
    if killed:
        shutil.rmtree(data)
        copied.rename(data)


async def content(data: Path, *, checked: bool = True) -> Content:
    """All records of a folder, on which an engine must start; its files are checked afterwards."""
    engine = sqlite_engine(data)
    await engine.open()
    try:
        for log in (log for topic in engine.topics.values() for log in topic.partitions):
            log.check_available()
        return {
            name: [await read_all(log) for log in topic.partitions] for name, topic in engine.topics.items()
        }
    finally:
        await engine.close()
        if checked:
            check_files(data)


async def incarnations(data: Path, topic: str = TOPIC) -> list[str]:
    engine = sqlite_engine(data)
    await engine.open()
    found = [log.incarnation_id for log in engine.topics[topic].partitions]
    await engine.close()
    return found


def file(data: Path, partition: int = 0, topic: str = TOPIC) -> Path:
    return data / "topics" / topic / f"{partition}.db"


def flip(path: Path, at: int) -> None:
    """Change one bit of a closed file."""
    with path.open("r+b") as changed:
        changed.seek(at)
        byte = changed.read(1)[0]
        changed.seek(at)
        changed.write(bytes([byte ^ 4]))


def page_of(path: Path, content: bytes) -> int:
    """The offset of the page that contains these bytes."""
    return path.read_bytes().index(content) // PAGE * PAGE


def flip_value(path: Path, number: int) -> None:
    """Change one bit in a record's value. (The first place found may be a former one, no longer in use.)"""
    flip(path, path.read_bytes().rindex(b"%d %d %d " % (number, number, number)))


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def in_child(work: Callable[[], None]) -> int:
    """Run a function in a forked process; returns its exit status (minus the signal)."""
    child = os.fork()
    if child == 0:
        gc.disable()  # gRPC's exit handlers would join threads that the child does not have
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""Copies of a data folder, as people make them beside a running broker, and the check of such a copy.

This file owns the hold's protocol as seen from outside, a copier that is slow in the worst place, and the
check of a copy against what its producers were promised. It knows none of the broker's code.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, connected
from blackbox.load import TOPIC, Journal, Sent, losses, read_back
from storage import checker
from takhin.v1 import takhin_pb2 as pb

HELD_S_MAX = 1.0
"""How long the broker may take to answer `hold`, and to remove the answer after `hold` has gone."""

PAGE_BYTES = 16 << 10

SLOW_COPIER = Path(__file__).with_name("slow_copier.py")


async def until(path: Path, *, there: bool, seconds_max: float = HELD_S_MAX) -> float:
    """Wait until a file appears or disappears; returns the seconds that took."""
    began = time.monotonic()
    while _is_there(path) != there:
        assert time.monotonic() - began < seconds_max, f"{path}: not {there} within {seconds_max} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


async def take_hold(data: Path) -> float:
    """Ask for a hold and wait for the answer; returns the seconds that took."""
    (data / "hold").touch()
    return await until(data / "held", there=True)


async def end_hold(data: Path) -> None:
    (data / "hold").unlink()
    await until(data / "held", there=False)


async def cp(data: Path, copy: Path, *, may_fail: bool = False) -> None:
    """Run `cp -r` in a child process. may_fail: allow errors, because files come and go meanwhile."""
    await children.run(
        "cp", "-r", data, copy, check=not may_fail, stderr=subprocess.DEVNULL if may_fail else None
    )


@contextmanager
def slow_copy(data: Path, copy: Path) -> Iterator[None]:
    """Copy every file and half of each write-ahead log, run the block, then copy the other halves."""
    command = [sys.executable, "-I", "-S", str(SLOW_COPIER), data, copy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as copier:
        try:
            assert copier.stdout.readline() == b"half\n"
            yield
            copier.communicate(b"go on\n")
            assert copier.returncode == 0
        finally:
            copier.kill()


def _wal_index(path: Path) -> tuple[int, int]:
    """(frames in a partition's write-ahead log, how many of them are in its file too), as SQLite knows them.

    From the -shm file (sqlite.org/walformat.html), which this process may open: it is not the broker.
    """
    shm = path.with_name(f"{path.name}-shm").read_bytes()
    return struct.unpack_from("=I", shm, 16)[0], struct.unpack_from("=I", shm, 96)[0]


def wholly_copied(path: Path) -> bool:
    """True if a partition has a write-ahead log whose frames are all in its file too.

    The next commit restarts such a log, unless a hold is on.
    """
    frames, copied = _wal_index(path)
    return 0 < frames == copied


def wal_bytes_in_use(path: Path) -> int:
    """The size of the valid part of a partition's write-ahead log; older frames may follow it."""
    return 32 + _wal_index(path)[0] * (24 + PAGE_BYTES)


def digests(folder: Path) -> dict[Path, bytes]:
    """Digests of the `.db` files. This process has no SQLite whose locks could be dropped by reading them."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.glob("topics/*/*.db")}


@dataclass(slots=True)
class Copy:
    """A copy, and the journal as it stood when the copying began and when it ended."""

    folder: Path
    before: Journal
    after: Journal
    originals: list[str]
    """Incarnation ids of the original's partitions; a copy must have none of them."""

    def expected(self) -> Journal:
        """Every request sent until the copying ended, but only the acknowledgements from before it began."""
        sent = {}
        for name, of in self.after.sent.items():
            acked = [each.acked for each in self.before.sent.get(name, [])]
            acked += [None] * (len(of) - len(acked))
            sent[name] = [Sent(each.records, place) for each, place in zip(of, acked, strict=True)]
        return Journal(self.after.seed, sent)

    def faults(self) -> list[str]:
        """Start a broker on the copy, read everything back and check its files; returns what is wrong."""
        try:
            with Broker(self.folder) as broker, connected(broker.address) as stub:
                found = losses(self.expected(), read_back(broker))
                if same := set(self.originals).intersection(incarnations(stub, TOPIC)):
                    found.append(f"incarnation ids of the original: {same}")
                if (self.folder / "hold").exists():
                    found.append("it is under the hold of the original, which was copied too")
        except Exception as error:  # noqa: BLE001  a bad copy can fail in any way
            return [f"{type(error).__name__}: {error}"]
        return [*found, *checker.faults_of(self.folder)]


def counted(copies: list[Copy]) -> int:
    """Count the bad copies, two of them at a time; each is removed after its check."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(_is_bad, copies))


def _is_bad(copy: Copy) -> bool:
    found = copy.faults()
    if found:
        print(f"{copy.folder.name} is bad: {found[0][:300]}")
    shutil.rmtree(copy.folder)
    return bool(found)


def incarnations(stub: Any, topic: str) -> list[str]:
    """The incarnation id of each partition."""
    response = stub.GetTopic(pb.GetTopicRequest(name=topic), timeout=CALL_S_MAX)
    return [info.incarnation_id for _, info in sorted(response.topic.partitions.items())]

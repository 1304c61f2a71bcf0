"""How `takhin recover` and a running broker work on one data folder: the file `recover` and its answer.

`takhin recover` writes into DATA/recover which partitions it wants, and keeps that file locked (flock) for as
long as it is at work. The broker closes those partitions, and only then puts a copy of what it has read into
DATA/released. It opens none of them again before the lock is gone, which is also so when recover was killed.
A broker that starts meanwhile leaves them closed. The first line is new for each run, so no answer is stale.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from takhin.disk.layout import Layout, unfinished
from takhin.disk.plain import open_plain, read_plain
from takhin.errors import CopyError
from takhin.model import TopicPartition

WAIT_SECONDS = 15.0
"""How long recover waits for the broker's answer: a queue may have to be written first."""
WAIT_HELD_SECONDS = 1.0
"""The same while the files are held to be copied: the broker lets go of none then."""
LOOK_SECONDS = 0.05
BYTES_MAX = 1 << 20
"""How long either file may be."""


class Repairs:
    """The broker's side."""

    def __init__(self, layout: Layout) -> None:
        self._asked = layout.recover
        self._answer = layout.released
        self._answered = ""

    @property
    def at_work(self) -> bool:
        """True if a `takhin recover` is at work beside a broker, or one that has died meanwhile."""
        return bool(self.wanted()[0])

    def wanted(self) -> tuple[str, frozenset[TopicPartition]]:
        """(what recover has written, the partitions that it wants); nothing if none is at work."""
        try:
            descriptor = open_plain(self._asked, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return "", frozenset()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            asked = os.read(descriptor, BYTES_MAX).decode(errors="replace")
            return asked, frozenset(_parsed(asked))
        finally:
            os.close(descriptor)
        return "", frozenset()

    def answer(self, asked: str) -> None:
        """All that was asked for is closed; without a question, take the last answer back. Raises OSError."""
        if asked == self._answered:
            return
        if asked:
            part = unfinished(self._answer)
            part.write_text(asked)
            part.rename(self._answer)
        else:
            self._answer.unlink(missing_ok=True)
        self._answered = asked


def check_alone(layout: Layout) -> None:
    """Raises CopyError while a `takhin recover` is at work that began beside a broker."""
    if Repairs(layout).at_work:
        raise _another()


def _another() -> CopyError:
    return CopyError("another `takhin recover` is at work on this data folder")


def _parsed(asked: str) -> Iterator[TopicPartition]:
    for line in asked.splitlines()[1:]:
        topic, _, partition = line.partition("/")
        if partition.isdecimal():
            yield TopicPartition(topic, int(partition))


@contextmanager
def released(layout: Layout, wanted: Sequence[TopicPartition]) -> Iterator[None]:
    """Recover's side: within the block no broker has these partitions open. Raises CopyError, OSError."""
    descriptor = open_plain(layout.recover, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _lock(descriptor)
        asked = "".join(f"{line}\n" for line in (uuid.uuid4(), *(f"{topic}/{n}" for topic, n in wanted)))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, asked.encode(), 0)
        _wait_for_answer(layout, asked)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    give_up = time.monotonic() + 1
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # for a moment a broker has it, too
            if time.monotonic() > give_up:
                raise _another() from None
            time.sleep(LOOK_SECONDS)
        else:
            return


def _wait_for_answer(layout: Layout, asked: str) -> None:
    give_up = time.monotonic() + (WAIT_HELD_SECONDS if layout.held.exists() else WAIT_SECONDS)
    while time.monotonic() < give_up:
        try:
            if read_plain(layout.released, BYTES_MAX) == asked.encode():
                return
        except FileNotFoundError:  # not yet
            pass
        time.sleep(LOOK_SECONDS)
    raise CopyError(
        f"who has {layout.data_dir} locked does not let go of the partitions: another command is at work on "
        f"it, or its files are being copied ({layout.hold}), or its broker is of an older Takhin and must be "
        "stopped first"
    )

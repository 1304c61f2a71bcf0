"""Which partitions' files are open: opened when needed, the one unused for longest closed for another.

An open file takes five descriptors and half a megabyte, and a broker may have thousands of partitions of
which few are busy. What a log is (its range, its times) stays known while its file is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw
import structlog

from takhin.disk import connection, layout
from takhin.disk.faults import CLEAN
from takhin.schema import PAGE_BYTES
from takhin.storage.sqlite.threads import Committer

log = structlog.get_logger()

Retry = Callable[[], None]


class OpenFiles:
    """The bound on open files, all partitions together. Pure bookkeeping on the loop."""

    def __init__(self, *, files_max: int, closer: Committer) -> None:
        """closer: the thread that files are closed on, which waits for the disk."""
        self.closer = closer
        self.held = False
        """While copies are made: the `.db` files stay as they are, and `-wal` files only grow."""
        self._files_max = files_max
        self._open: dict[PartitionFile, None] = {}  # the one unused for longest first
        self._closing = 0
        self._waiting: deque[Retry] = deque()

    @property
    def has_room(self) -> bool:
        return len(self._open) + self._closing < self._files_max

    def used(self, file: PartitionFile) -> None:
        """The file is open, and is the last one to be closed for another."""
        self._open.pop(file, None)
        self._open[file] = None

    def wait(self, retry: Retry) -> None:
        """Call `retry` when there is room, or may be; an idle file is closed for it."""
        self._waiting.append(retry)
        self.close_idle()

    def close_idle(self) -> None:
        """Close idle files, as many as are waited for. To be called when a file has become idle, too."""
        while self.wanted:
            idle = next((file for file in self._open if file.idle()), None)
            if idle is None:
                return
            self.close(idle)

    def close(self, file: PartitionFile) -> None:
        """Close one for another."""
        self._closing += 1
        file.close(self._closed)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for whom no file is being closed yet."""
        return self._closing < len(self._waiting)

    def cancel(self, retry: Retry) -> None:
        """Whoever waited has given up."""
        with suppress(ValueError):
            self._waiting.remove(retry)

    def forget(self, file: PartitionFile) -> None:
        """The file no longer counts: it is being closed, or stays open for good."""
        self._open.pop(file, None)

    def _closed(self) -> None:
        self._closing -= 1
        self.wake()

    def wake(self) -> None:
        """Let those who wait try again while there is room."""
        for _ in range(len(self._waiting)):  # whoever finds no room after all waits again
            if not self._waiting or not self.has_room:  # one that was called may have called this again
                return
            self._waiting.popleft()()


class PartitionFile:
    """One partition's file with its writing and its reading connection, open or closed.

    Lives on the loop; only the closing runs on a thread, and meanwhile the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        files: OpenFiles,
        *,
        idle: Callable[[], bool],
        opened: Callable[[apsw.Connection], None],
    ) -> None:
        """idle: whether nobody is using the connections.
        opened: called when the file was opened again; raises StartupError if it is no longer the same log.
        """
        self.path = path
        self.idle = idle
        self._files = files
        self._opened = opened
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._kept = False
        self._closing: list[Retry] | None = None  # while it is being closed: who waits for that

    def keep(self, writer: apsw.Connection) -> None:
        """What the broker's start has opened stays open if there is room. Waits for no disk."""
        if self._files.has_room:
            self._writer = writer
            self._files.used(self)
            return
        # A WAL left by a crash is copied when the file is needed, or at the broker's end.
        connection.close_untouched(writer, self.path)

    @property
    def held(self) -> bool:
        """Whether the `.db` file must stay as it is."""
        return self._files.held

    @property
    def is_open(self) -> bool:
        return self._writer is not None and self._closing is None

    def ready(self, retry: Retry) -> bool:
        """True if the file is open, now or already. Else `retry` is called when it is worth another try.

        Raises apsw.Error or StartupError if it cannot be opened.
        """
        if not self.is_open:
            if self._closing is not None or not self._files.has_room:
                self._files.wait(retry)
                return False
            writer = connection.open_writer(self.path)
            try:
                self._opened(writer)
            except BaseException:
                connection.close_untouched(writer, self.path)
                raise
            self._writer = writer
        if not self._kept:
            self._files.used(self)
        return True

    @property
    def writer(self) -> apsw.Connection:
        """The writing connection of an open file."""
        assert self._writer is not None, self.path  # noqa: S101  `ready` was asked before
        return self._writer

    @property
    def reader(self) -> apsw.Connection:
        """The reading connection of an open file, opened when first asked for."""
        if self._reader is None:
            self._reader = connection.open_reader(self.path)
        return self._reader

    def became_idle(self) -> None:
        self._files.close_idle()

    @property
    def wanted(self) -> bool:
        """Whether others wait for this file, or another, to be closed."""
        return self._files.wanted and self.is_open and not self._kept

    def give_way(self) -> None:
        """Be closed for another, between two groups."""
        self._files.close(self)

    def cancel(self, retry: Retry) -> None:
        self._files.cancel(retry)

    def failed(self) -> None:
        """What is on disk is no longer certain: the file stays open, whatever else needs opening."""
        self._kept = True
        self._files.forget(self)
        self._files.wake()

    def let_go(self, work: Callable[[], None], ended: Callable[[Exception | None], None]) -> None:
        """Close both connections, leaving all as it is, and run `work` on the closer's thread.

        `ended` is called with its error; the file is opened anew when it is needed. Without an error it is
        certain again what is on disk.
        """

        def alone() -> None:
            self._close_reader()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            work()

        def over(error: Exception | None) -> None:
            self._kept = error is not None
            waiting, self._closing = self._closing or [], None
            ended(error)
            for closed in waiting:
                closed()
            self._files.wake()

        self._closing = []
        self._files.closer.submit(alone, over)

    def close(self, closed: Retry) -> None:
        """Copy the WAL into the file and let go of both, then call `closed`. The file must be idle.

        A file that is closed, but has a WAL from before a crash, is opened for that.
        """
        if self._closing is not None:
            self._closing.append(closed)
            return
        self._closing = [closed]
        self._files.forget(self)
        self._files.closer.submit(self._close, self._closed)

    def _closed(self, error: Exception | None) -> None:
        if error is not None:
            log.warning("close_failed", path=str(self.path), error=str(error))
        waiting, self._closing = self._closing or [], None
        for closed in waiting:
            closed()
        self._files.wake()

    def _close(self) -> None:  # on the closer's thread
        self._close_reader()
        # The WAL of a closed file is left of a crash, or of a shell that looked in.
        if self._writer is None and layout.wal_of(self.path).exists() and not self.held:
            self._writer = connection.open_writer(self.path)
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        if self.held or self._kept:  # kept: its index may take for copied what no disk has
            writer.close()
            return
        try:
            # A full disk, or a shell that reads, can be in the way: then the WAL stays for the next start.
            with suppress(*CLEAN):
                writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except BaseException:
            writer.close()
            raise
        connection.close_whole(writer)  # last, because the last connection takes the WAL away

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def growth_bytes(self) -> int:
        """By how much the `.db` file grows when all of its WAL is copied into it. The file must be idle."""
        return int(self.writer.pragma("page_count") * PAGE_BYTES) - self.path.stat().st_size

    def wal_bytes(self) -> int:
        """The size of the write-ahead log beside the file; 0 where there is none."""
        return layout.wal_bytes(self.path)

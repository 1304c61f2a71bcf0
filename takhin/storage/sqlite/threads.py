"""Threads that wait for the disk, so that the event loop never does. Owns the threads; knows no table.

Only COMMIT, checkpoints and the closing of files come here. Statements that do not wait for the disk run
on the loop: apsw lets go of the GIL at every step, and a thread that wants it back beside a busy loop waits
up to 5 ms for each (measured: a transaction of five statements 16 ms on a thread, its COMMIT alone 5 ms). So
a commit group crosses to a thread and back exactly once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]
Done = Callable[[Exception | None], None]


class Committer:
    """Runs blocking work in order of arrival and reports each outcome on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, name: str, threads: int) -> None:
        self._loop = loop
        self._queue: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"takhin-{name}-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work, done: Done) -> None:
        """Run `work` on a thread, then `done(None)`, or `done(error)` if it raised, on the loop."""
        self._queue.put((work, done))

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:  # on a committer thread
        while (job := self._queue.get()) is not None:
            work, done = job
            error: Exception | None = None
            try:
                work()
            except Exception as raised:  # noqa: BLE001  told to the one who waits; the thread lives on
                error = raised
            self._loop.call_soon_threadsafe(done, error)

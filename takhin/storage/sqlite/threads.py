"""Threads that wait for the disk, so that the event loop never does. Owns the threads; knows no table.

Only COMMIT, checkpoints, and the opening and closing of files come here. All other statements run on the
loop: apsw releases the GIL at every step, and a thread that wants it back beside a busy loop waits up to 5 ms
for each (measured: a transaction of five statements 16 ms on a thread, its COMMIT alone 5 ms). So a commit
group crosses to a thread and back exactly once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

Work = Callable[[], object]
Done = Callable[[Any, Exception | None], None]
"""Called on the loop with what the work returned, or with None and the error that it raised."""


class DiskThreads:
    """Run blocking work in order of arrival and report each outcome on the loop."""

    def __init__(self, name: str, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"takhin-{name}-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work, done: Done) -> None:
        """Run `work` on a thread, then `done` on the loop."""
        self._queue.put((work, done))

    async def quiet(self) -> None:
        """Return when everything submitted until now has run. For a pool of one thread."""
        passed = asyncio.Event()
        self.submit(lambda: None, lambda _, __: passed.set())
        await passed.wait()

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:  # on one of the threads
        while (job := self._queue.get()) is not None:
            work, done = job
            result: object = None
            error: Exception | None = None
            try:
                result = work()
            except Exception as raised:  # noqa: BLE001  passed to the one who waits; the thread lives on
                error = raised
            self._loop.call_soon_threadsafe(done, result, error)


@dataclass(frozen=True, slots=True)
class Threads:
    """The two pools of an engine."""

    commit: DiskThreads
    """Commits, and whatever else uses a partition's writing connection."""
    checkpoint: DiskThreads
    """One thread, for checkpoints and the closing of files: so never two of them compete for the disk."""

    def close(self) -> None:
        self.commit.close()
        self.checkpoint.close()

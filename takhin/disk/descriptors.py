"""The process's file descriptors: how many it may have, and whether there are any left."""

from __future__ import annotations

import errno
import os
import resource

SLACK = 128
"""Descriptors for everything but connections and partition files: libraries, logs, files being made."""
PER_PARTITION = 5
"""The .db file of an open partition, its -wal and -shm, some of them twice: for the writer and the reader."""


def raise_limit() -> int:
    """Take as many descriptors as the system gives without asking; returns how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def needed(*, connections: int, open_partitions: int) -> int:
    """How many descriptors a broker may come to use."""
    return connections + PER_PARTITION * open_partitions + SLACK


def shortage() -> str | None:
    """Why no file or connection can be opened now, as a clause; None if one can."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return None  # standard input is closed: that says nothing
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        whose = "the process" if error.errno == errno.EMFILE else "the machine"
        return f"{whose} has no file descriptor left (the process may have {limit}: see `ulimit -n`)"
    return None

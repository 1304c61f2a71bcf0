"""What a fork does to clients.

gRPC's threads and locks do not survive a fork: in the child, calls hang or the process is aborted. So once a
process has used a client, clients refuse to work in what is forked from it, the inherited ones and new ones.

This file is imported before gRPC. gRPC's own support for forks is for its blocking calls alone. Beside
asyncio its handlers made 11 of 70 children end by SIGSEGV (grpcio 1.85), even those that called nothing, and
none without. So it is off unless the environment says otherwise.

What nobody can stop: a child forked within a running loop inherits its tasks, gRPC's own among them. If it
ends by sys.exit, asyncio.run cancels them, and the parent, whose socket it is, too, waits for answers that
never come, until an attempt's time is up. Such a child ends by os._exit.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from takhin.client.errors import ForkedError

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


class _State:
    """Of this process. used: it, or one from which it was forked, has made a channel. forked: since then."""

    used = False
    forked = False


def grpc_is_used() -> None:
    """Call before a channel is made."""
    _State.used = True


def forked() -> bool:
    """True in a process that was forked from one that had used gRPC."""
    return _State.forked


def check() -> None:
    """Raise ForkedError in a process that was forked from one that had used gRPC."""
    if _State.forked:
        raise ForkedError(
            "this process was forked from one that had used a client of Takhin, and gRPC does not survive "
            "that; start processes by spawn, or fork before the first client is opened"
        )


class Shutable(Protocol):
    """Something that is used without a call of `check`."""

    def shut(self) -> None:
        """Take in nothing more."""


def shut_in_child(part: Shutable) -> None:
    """Shut this part of an inherited client in a child."""
    _parts.add(part)


_parts: WeakSet[Shutable] = WeakSet()


def _in_child() -> None:
    _State.forked = _State.used
    if _State.forked:
        for part in _parts:
            part.shut()


os.register_at_fork(after_in_child=_in_child)

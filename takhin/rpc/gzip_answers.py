"""Which responses are compressed by gRPC's gzip: those of clients that ask for it, where it is worth it.

Every client of gRPC can read gzip, and says so. So that is no wish for it: on a fast link it costs more than
it saves. A client asks by metadata of the call, `takhin-accept-encoding: gzip`, which each language can send.

gRPC compresses in the turn of the event loop that sends a response: 16 ms for a MiB of JSON. So large ones
stay plain, and those of a consume call are kept small.
"""

from __future__ import annotations

from typing import Any

from takhin.rpc.calls import Context
from takhin.sizes import MESSAGE_ROOM_BYTES
from takhin.wire.compression import SMALL_BYTES

ASKED_BY = "takhin-accept-encoding"
LARGE_BYTES = 128 << 10
"""A response of this size takes gRPC some 2 to 5 ms; a larger one is not compressed."""


def asks_for_gzip(context: Context) -> bool:
    """True if the call's client wants its responses compressed."""
    for name, value in context.invocation_metadata() or ():
        if name == ASKED_BY:
            return "gzip" in [word.strip() for word in str(value).split(",")]
    return False


def is_worth_gzip(response: Any) -> bool:
    """True for a response, a message or its bytes, that is neither small nor large."""
    size = len(response) if isinstance(response, bytes) else response.ByteSize()
    return SMALL_BYTES <= size <= LARGE_BYTES


def bounded(max_bytes: int) -> int:
    """The max_bytes of a consume call whose responses are compressed, where its client asks for that many.

    0: as many as there may be. The fields around the records have some room.
    """
    most = LARGE_BYTES - MESSAGE_ROOM_BYTES
    return min(max_bytes, most) if max_bytes else most

"""Why a program cannot listen at an address: the system tells the causes apart, and gRPC does not."""

from __future__ import annotations

import errno
import os
import socket

WORDS = {
    errno.EADDRINUSE: "another process listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "this user may not listen on that port",
}


def trouble(host: str, port: int) -> str | None:
    """What keeps a program from listening there now, as the end of a sentence; None if nothing does.

    A host may have several addresses, and one that works is enough.
    """
    found = None
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return "no machine has that name"
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen(1)
        except OSError as error:
            found = found or words_of(error)
        else:
            return None
    return found


def words_of(error: OSError) -> str:
    """What an error of binding means."""
    number = error.errno
    if number is None:
        return str(error)
    return WORDS.get(number) or os.strerror(number)

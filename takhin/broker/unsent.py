"""The room for responses that clients have not taken yet: where there is little, responses get smaller.

Whoever reads slowly, or never, keeps a whole response in memory; without a bound many such streams would take
as much as there is.
"""

from __future__ import annotations

LEAST_BYTES = 64 << 10
"""What a stream may have in any case; gRPC holds as much of each call anyway."""
SHARE = 4
"""One stream may have one of so many parts of what is left, so that others find room, too."""


class Unsent:
    """At most `bytes_max` bytes of responses, and LEAST_BYTES for each stream that finds no room."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    def reserve(self, most: int) -> int:
        """Room for a response: `most` if there is enough, else less. To be given back.

        A smaller one is a power of two, so that streams with the same log still share their reads.
        """
        share = max(LEAST_BYTES, self._left // SHARE)
        room = most if most <= share else 1 << (share.bit_length() - 1)
        self._left -= room
        return room

    def give_back(self, room: int) -> None:
        """The response has been sent, or never will be."""
        self._left += room

"""How the records of one client travel: plain, or compressed by zstd."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from takhin.errors import InvalidArgumentError
from takhin.wire import requests
from takhin.wire.compression import ZSTD, MissingLibraryError, zstd

logger = logging.getLogger("takhin.client")


class Packing:
    """Compresses what is sent, and says what may be compressed of what is read.

    compression: "zstd" or None. Raises InvalidArgumentError for any other, and where there is no zstd.
    """

    def __init__(self, compression: str | None) -> None:
        if compression not in (None, ZSTD):
            raise InvalidArgumentError(
                f"compression is {ZSTD!r} or None, not {compression!r}", field="compression"
            )
        if compression is not None:
            _check_library()
        self.accepted = () if compression is None else requests.ZSTD_ACCEPTED
        self._sends = compression is not None

    async def packed(self, records: Sequence[bytes]) -> Sequence[bytes]:
        """The records of a request, as `takhin.wire.requests` makes them, or the same compressed."""
        return await requests.packed(records) if self._sends else records

    def is_not_understood(self, server: str) -> None:
        """The broker has refused a request that it took with plain records: it is older than compression."""
        if self._sends:
            logger.warning("%s is too old for compressed records; they are sent as they are", server)
        self._sends = False


def _check_library() -> None:
    try:
        zstd()
    except MissingLibraryError:
        raise InvalidArgumentError(
            "compression='zstd' needs a library that is not installed: in a checkout of Takhin, "
            "pip install '.[zstd]'",
            field="compression",
        ) from None

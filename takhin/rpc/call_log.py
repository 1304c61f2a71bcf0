"""Debug lines about calls: the outcome and duration of each, a stream's start, a connection's first call."""

from __future__ import annotations

import time
from collections import OrderedDict

import structlog

from takhin.rpc.calls import PEERS_REMEMBERED, Call, Context

logger = structlog.get_logger()


class CallLog:
    """Watches the calls of one server, for a broker that logs debug lines."""

    def __init__(self) -> None:
        # A connection gets another line if it was silent while so many others called.
        self._peers: OrderedDict[str, None] = OrderedDict()

    def began(self, call: Call, _context: Context) -> None:
        self._look_at(call)
        if call.streams:
            logger.debug("stream_began", method=call.method, peer=call.peer)

    def ended(self, call: Call) -> None:
        took = round((time.perf_counter() - call.began) * 1_000, 3)
        event = "stream_ended" if call.streams else "call"
        outcome = call.error or call.status
        logger.debug(event, method=call.method, peer=call.peer, outcome=outcome, took_ms=took)

    def _look_at(self, call: Call) -> None:
        """Tell of a connection that makes its first call."""
        if call.peer in self._peers:
            self._peers.move_to_end(call.peer)
            return
        logger.debug("connection_first_call", peer=call.peer, method=call.method)
        self._peers[call.peer] = None
        if len(self._peers) > PEERS_REMEMBERED:
            self._peers.popitem(last=False)

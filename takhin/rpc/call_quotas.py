"""Calls that are one too many are refused before anything of their request is read.

That is a call beyond its caller's quota; and, when few more calls can be under way at all, a call of the
address and of the connection that have the most. Without that one client could take all of them.
"""

from __future__ import annotations

import asyncio
import time

from takhin.errors import OverloadedError
from takhin.quotas import Quotas, address_of
from takhin.rpc.arrivals import Arrival
from takhin.rpc.calls import Call, Context
from takhin.rpc.parsing import Refused
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.packed import count_records

PRODUCE = f"/{pb.DESCRIPTOR.services_by_name['TakhinService'].full_name}/ProduceMessage"
PRODUCE_STREAM = f"{PRODUCE}Stream"
"""Answers a malformed request like any other that it refuses. Every other stream ends with one."""
LEFT_FOR_OTHERS = 8
"""One of so many calls is left to those who have fewer than others."""


class CallQuotas:
    """Counts the calls under way. It watches all calls for that."""

    def __init__(self, quotas: Quotas, calls_max: int) -> None:
        self._quotas = quotas
        self._most = calls_max - calls_max // LEFT_FOR_OTHERS
        self._number = 0
        self._of_address: dict[str, list[int]] = {}  # calls, and connections with calls
        self._of_connection: dict[str, int] = {}

    def admit(self, call: Call) -> None:
        """Let the call go on, whose caller is known. Raises OverloadedError if it is one too many."""
        if self._number > self._most and self._has_the_most(call):
            raise OverloadedError(
                f"{self._number} calls are under way (rpc.calls_max leaves few), the most of them from here"
            )
        if self._quotas.off:
            return
        now = time.monotonic()
        allowance = self._quotas.of(call.caller, now)
        if allowance is None:
            return
        if call.method == PRODUCE:
            allowance.check_produce(now)
        allowance.begin(call.peer, now)
        call.allowance = allowance

    async def hold_back(self, call: Call, arrival: Arrival) -> None:
        """Count a message of a stream. One that is over the caller's quota waits here, without a place."""
        allowance, now = call.allowance, time.monotonic()
        if allowance is None:
            return
        if call.method == PRODUCE_STREAM:
            request = arrival.request
            records = 0 if isinstance(request, Refused) else count_records(request)
            wait_s = allowance.stream_produce(records=records, size_bytes=arrival.size_bytes, now=now)
        else:
            wait_s = allowance.stream_message(now)
        if wait_s:
            arrival.leave()
            arrival.throttled_ms = round(wait_s * 1_000)
            await asyncio.sleep(wait_s)

    def began(self, call: Call, _context: Context) -> None:
        """Count the call, whoever makes it."""
        address = address_of(call.caller.address)
        of_address = self._of_address.get(address)
        if of_address is None:
            of_address = self._of_address[address] = [0, 0]
        of_connection = self._of_connection.get(call.peer, 0)
        self._of_connection[call.peer] = of_connection + 1
        self._number += 1
        of_address[0] += 1
        of_address[1] += not of_connection

    def ended(self, call: Call) -> None:
        """Count the call no longer."""
        address = address_of(call.caller.address)
        of_address = self._of_address[address]
        self._number -= 1
        of_address[0] -= 1
        self._of_connection[call.peer] -= 1
        if not self._of_connection[call.peer]:
            del self._of_connection[call.peer]
            of_address[1] -= 1
        if not of_address[0]:
            del self._of_address[address]
        if call.allowance is not None:
            call.allowance.end(call.peer)

    def _has_the_most(self, call: Call) -> bool:
        """True if its address has its share of all calls or more, and its connection its share of those."""
        calls, connections = self._of_address[address_of(call.caller.address)]
        return (
            calls * len(self._of_address) >= self._number
            and self._of_connection[call.peer] * connections >= calls
        )

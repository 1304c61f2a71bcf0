"""Calls that are one too many are refused before anything of their request is read.

That is a call beyond its caller's quota; and, when few more calls can be under way at all, a call of the
owner (a principal, or an address where there is none) and of the connection that have the most, whatever its
method. Without that one client could take all of them.

gRPC has a limit, too, maximum_concurrent_rpcs, which is not set. It counts a refused call until its client
has read that, so one that reads nothing would use it up; and it refuses whoever calls.
"""

from __future__ import annotations

import time
from typing import Any

from takhin.errors import OverloadedError
from takhin.quotas import PRODUCED, REQUESTS, Quotas
from takhin.rpc.calls import Call, Context
from takhin.rpc.parsing import Refused
from takhin.rpc.places import Source, source_of
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.packed import count_records

PRODUCE = f"/{pb.DESCRIPTOR.services_by_name['TakhinService'].full_name}/ProduceMessage"
PRODUCE_STREAM = f"{PRODUCE}Stream"
"""Answers a malformed request like any other that it refuses. Every other stream ends with one."""
LEFT_FOR_OTHERS = 8
"""One of so many calls is left to those who have fewer than others: half of them to other connections of an
owner, too, and half to other owners alone."""
PART_OF_THE_LAST = 4
"""Of those that are left to other connections of an owner, one has a quarter of what the others find then."""


class StreamQuota:
    """What one stream's messages are counted with. Each is read when what was taken before is paid for."""

    def __init__(self, call: Call) -> None:
        self._allowance = call.allowance
        self._produces = call.method == PRODUCE_STREAM
        self._names = PRODUCED if self._produces else (REQUESTS,)

    def owed_s(self) -> float:
        """How long until the next message may be read."""
        return 0.0 if self._allowance is None else self._allowance.owed_s(self._names, time.monotonic())

    def delayed(self) -> None:
        """Count that the next message has to wait."""
        if self._allowance is not None:
            self._allowance.delayed(self._names, time.monotonic())

    def came(self, size_bytes: int) -> None:
        """Count a message that has come, by what is known of it."""
        if self._allowance is not None:
            self._allowance.stream_message(time.monotonic(), size_bytes=size_bytes if self._produces else 0)

    def parsed(self, request: Any, more_bytes: int) -> None:
        """Count what the message was besides. more_bytes: it has so many more than it seemed to have."""
        if self._allowance is not None and self._produces:
            records = 0 if isinstance(request, Refused) else count_records(request)
            self._allowance.stream_message(
                time.monotonic(), size_bytes=max(0, more_bytes), records=records, requests=0
            )


class CallQuotas:
    """Counts the calls under way. It hears of their ends as a watcher."""

    def __init__(self, quotas: Quotas, calls_max: int) -> None:
        self._quotas = quotas
        self._calls_max = calls_max
        self._most = calls_max - calls_max // LEFT_FOR_OTHERS
        self._most_of_one = calls_max - calls_max // (2 * LEFT_FOR_OTHERS)
        self._sources: dict[Call, Source] = {}
        self._of_owner: dict[str, list[int]] = {}  # calls, and connections with calls
        self._of_source: dict[Source, int] = {}

    def enter(self, call: Call) -> None:
        """Count a call, whose caller is known. Raises OverloadedError if few are left, and none for it."""
        source = self._sources[call] = source_of(call)
        of_owner = self._of_owner.setdefault(source.owner, [0, 0])
        of_source = self._of_source.get(source, 0)
        self._of_source[source] = of_source + 1
        of_owner[0] += 1
        of_owner[1] += not of_source
        number = len(self._sources)
        if number > self._calls_max or (number > self._most and self._has_the_most(source)):
            self._forget(call)
            raise OverloadedError(
                f"rpc.calls_max leaves no other call to this client (under way: {number - 1})"
            )

    def admit(self, call: Call) -> None:
        """Let the call go on. Raises OverloadedError if its caller is over a quota."""
        if self._quotas.off:
            return
        now = time.monotonic()
        allowance = self._quotas.of(call.caller, now)
        if allowance is None:
            return
        try:
            if call.method == PRODUCE:
                allowance.check_produce(now)
            allowance.begin(call.peer, now)
        except OverloadedError:
            self._forget(call)
            raise
        call.allowance = allowance

    def began(self, call: Call, _context: Context) -> None:
        """Nothing is counted yet: who calls is not known."""

    def ended(self, call: Call) -> None:
        """Count the call no longer."""
        if call.allowance is not None:
            call.allowance.end(call.peer)
        self._forget(call)

    def _forget(self, call: Call) -> None:
        """Count the call no longer, if it is counted. It ends when its client has read its refusal."""
        source = self._sources.pop(call, None)
        if source is None:
            return
        of_owner = self._of_owner[source.owner]
        of_owner[0] -= 1
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]
            of_owner[1] -= 1
        if not of_owner[0]:
            del self._of_owner[source.owner]

    def _has_the_most(self, source: Source) -> bool:
        """True if its owner has its share of all calls or more, and its connection its share of those.

        A connection that has less takes no more of the last calls than a part of what it leaves: else the
        next one that opens calls and leaves them open would take them all. Of the very last calls it is the
        owner's share alone that counts.
        """
        calls, connections = self._of_owner[source.owner]
        number = len(self._sources)
        if calls * len(self._of_owner) < number:
            return False
        of_source, left = self._of_source[source], self._most_of_one - number
        return left < 0 or of_source * connections >= calls or of_source > max(1, left // PART_OF_THE_LAST)

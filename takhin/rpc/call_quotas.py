"""Calls that their caller's quota does not allow are refused before anything of their request is read."""

from __future__ import annotations

import time

from takhin.quotas import Quotas
from takhin.rpc.calls import Call, Context
from takhin.v1 import takhin_pb2 as pb

PRODUCE = f"/{pb.DESCRIPTOR.services_by_name['TakhinService'].full_name}/ProduceMessage"


class CallQuotas:
    """Counts the calls of each caller. It watches calls to learn of their end."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def admit(self, call: Call) -> None:
        """Count the call, whose caller is known. Raises OverloadedError if it is one too many."""
        if self._quotas.off:
            return
        now = time.monotonic()
        meter = self._quotas.of(call.caller, now)
        if meter is None:
            return
        if call.method == PRODUCE:
            meter.check_produce(now)
        meter.begin(call.peer, now)
        call.meter = meter

    def began(self, _call: Call, _context: Context) -> None:
        """Who calls is not known yet."""

    def ended(self, call: Call) -> None:
        """Count the call no longer, if it was."""
        if call.meter is not None:
            call.meter.end(call.peer)

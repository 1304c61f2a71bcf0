"""The access log: one line for each call, when it has ended, for programs that read logs."""

from __future__ import annotations

import time

import structlog

from takhin.rpc.calls import Call, Context

logger = structlog.get_logger()


class AccessLog:
    """Watches the calls of one server, if log.access is true."""

    def began(self, call: Call, context: Context) -> None:
        """Nothing is said yet: who calls is not known."""

    def ended(self, call: Call) -> None:
        logger.info(
            "access",
            method=call.method,
            principal=call.caller.principal,
            address=call.caller.address,
            status=call.status,
            error=call.error or None,
            took_ms=round((time.perf_counter() - call.began) * 1_000, 3),
        )

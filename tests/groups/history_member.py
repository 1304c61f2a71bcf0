"""A member of a group that writes down all that happens to it, as JSON lines.

    python history_member.py SERVER GROUP TOPIC FILE SESSION_MS

It commits each batch by hand as soon as it has read it. SIGTERM lets it leave in order. Every line has `at`,
the machine's monotonic clock in seconds, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

from takhin.client import Consumer, Retry
from takhin.errors import FencedMemberError, UnknownMemberError

RECORDS_MAX = 50


async def main(server: str, group: str, topic: str, path: str, session_ms: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str, **more: object) -> None:
        os.write(file, json.dumps({"at": time.monotonic(), "what": what} | more).encode() + b"\n")

    def noting(what: str):
        return lambda partitions: note(what, partitions=[at.partition for at in partitions])

    consumer = Consumer(
        server,
        group_id=group,
        topics=[topic],
        auto_commit=False,
        session_timeout_ms=int(session_ms),
        revoke_timeout_ms=5_000,
        on_assigned=noting("assigned"),
        on_revoked=noting("revoked"),
        on_lost=noting("lost"),
        retry=Retry(wait_ms_max=200),
    )
    async with consumer:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
        async for batch in consumer.batches(max_records=RECORDS_MAX):
            first, beyond = batch.records[0].offset, batch.records[-1].offset + 1
            values = [record.value.decode() for record in batch.records]
            note("poll", partition=batch.partition, first=first, values=values)
            begun = time.monotonic()
            try:
                await consumer.commit(batch)
            except (FencedMemberError, UnknownMemberError):
                note("refused", partition=batch.partition, offset=beyond)
            else:
                note("committed", partition=batch.partition, offset=beyond, begun=begun)
    note("left")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Consume calls whose caller has a quota: what is over it is held back, and nothing is read meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from takhin.model import Chunk, ConsumeRequest, Records
from takhin.quotas import Allowance
from takhin.settings import ConsumeSettings


def within_quota(request: ConsumeRequest, allowance: Allowance, settings: ConsumeSettings) -> ConsumeRequest:
    """The request with responses so small that none takes more than a burst; a larger record comes alone."""
    most_bytes = allowance.response_max("consumed_bytes_per_s")
    if most_bytes is not None:
        request = replace(request, max_bytes=min(request.max_bytes or settings.response_bytes, most_bytes))
    most_records = allowance.response_max("consumed_records_per_s")
    return request if most_records is None else replace(request, response_records=most_records)


async def throttled(
    chunks: AsyncGenerator[Chunk, None], allowance: Allowance, settings: ConsumeSettings
) -> AsyncGenerator[Chunk, None]:
    """The chunks, each when what the caller has consumed is paid for.

    Each is counted as soon as it is read, so several streams of one caller wait one after the other. While
    one waits, an empty chunk says every heartbeat_ms that the stream is alive.
    """
    heartbeat_s = settings.heartbeat_ms / 1_000
    async with aclosing(chunks):
        async for chunk in chunks:
            records = chunk.records
            if not records.rows:
                yield chunk
                continue
            size_bytes = records.size_bytes
            wait_s = allowance.consume(records=len(records.rows), size_bytes=size_bytes, now=time.monotonic())
            try:
                while wait_s > heartbeat_s:
                    wait_s -= heartbeat_s
                    await asyncio.sleep(heartbeat_s)
                    alive = Records((), {}, records.first_offset)
                    yield Chunk(alive, chunk.end_offset, settings.heartbeat_ms)
                await asyncio.sleep(wait_s)
            except BaseException:
                allowance.consumed_not(records=len(records.rows), size_bytes=size_bytes)
                raise
            yield replace(chunk, throttled_ms=round(wait_s * 1_000))

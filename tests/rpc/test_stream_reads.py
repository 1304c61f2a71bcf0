"""Streams that are over a quota wait in line, and nobody in it holds the others up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from takhin.rpc.places import Source
from takhin.rpc.stream_reads import PATIENCE_SECONDS, StreamReads

SOURCE = Source("principal me", "ipv4:10.0.0.1:1")
DEBT_S = 0.02


class Debt:
    """What the streams owe together: DEBT_S more for each message, paid by the loop's time."""

    def __init__(self) -> None:
        self._paid_at = 0.0

    def owed_s(self) -> float:
        return max(0.0, self._paid_at - asyncio.get_running_loop().time())

    def delayed(self) -> None:
        """Nobody counts."""

    def came(self, size_bytes: int) -> None:
        now = asyncio.get_running_loop().time()
        self._paid_at = max(self._paid_at, now) + DEBT_S * size_bytes


class Client:
    """A stream's messages, each of which is there as soon as it is asked for; or never, if it is quiet."""

    def __init__(self, reads: StreamReads, quota: Debt, *, quiet: bool = False) -> None:
        self.asked = asyncio.Event()
        self.came = 0
        self._quiet = quiet
        self.reading = asyncio.create_task(self._read(reads, quota))

    async def _messages(self) -> AsyncIterator[bytes]:
        while True:
            self.asked.set()
            if self._quiet:
                await asyncio.Event().wait()
            yield b"m"

    async def _read(self, reads: StreamReads, quota: Debt) -> None:
        async for read in reads.messages(self._messages(), SOURCE, quota, begun=True):
            assert read.message == [b"m"]
            self.came += 1


@pytest.fixture(autouse=True)
async def in_time():
    """No test waits for long."""
    async with asyncio.timeout(5):
        yield


async def test_they_take_turns_and_keep_the_rate():
    """Of many that have always something to say each gets its share, and all together what is paid for."""
    reads, debt = StreamReads(1), Debt()
    begin = asyncio.get_running_loop().time()
    clients = [Client(reads, debt) for _ in range(5)]
    while min(client.came for client in clients) < 4:  # noqa: ASYNC110  no event tells of it
        await asyncio.sleep(DEBT_S)
    took = asyncio.get_running_loop().time() - begin
    came = [client.came for client in clients]
    assert max(came) - min(came) <= 2
    assert sum(came) - len(came) <= took / DEBT_S + 1  # each may have had one before there was a debt


async def test_whoever_leaves_the_line_holds_up_nobody():
    """The one at its head is cancelled, and one that waits; one is quiet when its turn comes."""
    reads, debt = StreamReads(1), Debt()
    debt.came(3)
    head, waits, quiet = Client(reads, debt), Client(reads, debt), Client(reads, debt, quiet=True)
    last = Client(reads, debt)
    await asyncio.sleep(DEBT_S)
    assert not any(client.asked.is_set() for client in (head, waits, quiet, last))
    head.reading.cancel()
    waits.reading.cancel()
    await quiet.asked.wait()
    assert not last.asked.is_set()
    begin = asyncio.get_running_loop().time()
    await last.asked.wait()
    assert asyncio.get_running_loop().time() - begin < 10 * PATIENCE_SECONDS + 1

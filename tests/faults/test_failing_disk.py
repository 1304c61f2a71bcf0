"""A disk that fails a write or a sync with EIO: nothing acknowledged, one partition hit, and it recovers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import time
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from faults.failing_disk import Plan, failing_disk
from native.packing import as_it_came
from storage.support import check_files, sqlite_engine
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError, StartupError, StorageFullError
from takhin.model import CommittedOffset
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.steps import Step
from takhin.testing.contract import ALL, NOW, batch, name_of, read_all, spec, under

SETTINGS = {"checkpoint_pages": 6, "ballast_bytes": 0, "free_bytes_low": 0, "recover_wait_ms": 100}
COME_BACK_S_MAX = 5.0
APPENDS_MAX = 400
"""Within this number of appends the planned call should have come."""
CALLS = {"sync": 30, "write": 150}
"""The N-th call fails, with N up to these."""
RECORDS_MAX, RECORD_BYTES_MAX = 4, 5_000
CONTROL_TRIALS_MAX = 18
"""Each trial may see it by chance: in one of three a crash keeps everything."""


def trials(count: int) -> list[tuple[str, bool, bool, int]]:
    """(kind, for good, landed, N), spread evenly over all combinations."""
    kinds = list(itertools.product(CALLS, (False, True), (False, True)))
    each = -(-count // len(kinds))
    return [
        (kind, for_good, landed, 1 + CALLS[kind] * number // each)
        for number in range(each)
        for kind, for_good, landed in kinds
    ][:count]


@dataclass
class Told:
    """What one log's producer and consumer have received."""

    acked: dict[int, list[bytes]] = field(default_factory=dict)
    """Values by the offset of the first one."""
    unknown: list[bytes] | None = None
    """The batch whose outcome is unknown until it is sent again."""
    unknown_in_all: int = 0
    served: dict[int, bytes] = field(default_factory=dict)
    committed: int | None = None

    def faults(self, log, found: list[tuple[int, bytes]], committed: CommittedOffset | None) -> list[str]:
        """What contradicts it in a log that was read completely, a sentence each."""
        at = dict(found)
        faults = []
        if [offset for offset, _ in found] != list(range(log.end_offset)):
            faults.append(f"{log.end_offset} is the end of {[offset for offset, _ in found]}")
        for first, values in self.acked.items():
            if [at.get(first + n) for n in range(len(values))] != values:
                faults.append(f"acknowledged at {first}, and not there")
        faults += [f"{offset} was served" for offset, value in self.served.items() if at.get(offset) != value]
        others = Counter(at.values()) - Counter(value for of in self.acked.values() for value in of)
        if others and others != Counter(self.unknown):
            faults.append(f"{len(others)} values that nobody sent, or twice, or a part of a batch")
        if self.committed is not None and (committed is None or committed.offset < self.committed):
            faults.append(f"committed {committed} after {self.committed}")
        if committed is not None and committed.offset > log.end_offset:
            faults.append(f"committed {committed} behind the end {log.end_offset}")
        return faults


class Client:
    """Produces each batch until it is acknowledged, reads the log, and commits how far it has read."""

    def __init__(self, engine, log, chance: random.Random) -> None:
        self.log = log
        self._offsets = engine.offsets
        self.told = Told()
        self._chance = chance
        self._sending: list[bytes] = []

    async def turn(self) -> None:
        """Append one batch, then read everything new. Raises what the append raises."""
        told = self.told
        self._sending = self._sending or self._values()
        try:
            offset = await self.send(self.log)
        except OutcomeUnknownError:
            told.unknown = self._sending
            told.unknown_in_all += 1
            raise
        told.acked[offset], told.unknown, self._sending = self._sending, None, []
        await self.read()
        if self._chance.random() < 0.3:
            offset = self.log.end_offset
            await self.commit(offset)
            told.committed = offset

    async def commit(self, offset: int) -> None:
        await self._offsets.commit("group", {name_of(self.log): CommittedOffset(offset, "", NOW)})

    def _values(self) -> list[bytes]:
        first = sum(map(len, self.told.acked.values()))
        return [
            b"%d " % (first + n) + self._chance.randbytes(self._chance.randrange(RECORD_BYTES_MAX))
            for n in range(self._chance.randint(1, RECORDS_MAX))
        ]

    async def send(self, log) -> int:
        """Append the batch that is under way, for the first time or again; returns its offset."""
        sequence = sum(map(len, self.told.acked.values()))
        return (await log.append(under(as_it_came(*self._sending), b"producer", sequence))).offset

    async def faults_after_a_repeat(self, log, offsets) -> list[str]:
        """What is wrong in a copy of the log after the batch under way is sent again."""
        told = deepcopy(self.told)
        if self._sending:
            told.acked[await self.send(log)], told.unknown = self._sending, None
        return await faults_of(told, log, offsets)

    async def read(self) -> None:
        """Read what is new since the last read, and keep it as served."""
        offset = len(self.told.served)
        page = await self.log.read(offset, **ALL)
        assert [row[0] for row in page.rows] == list(range(offset, self.log.end_offset))
        self.told.served.update((row[0], row[3]) for row in page.rows)


class Trial:
    """One engine with a failing file and two neighbours."""

    def __init__(self, folder, disk, seed: int, **settings: int) -> None:
        """settings: override SETTINGS."""
        self._data = folder / "data"
        self._settings = SETTINGS | settings
        self._copies = (folder / f"copy-{n}" for n in itertools.count())
        self._disk = disk
        self._chance = random.Random(seed)

    async def open(self) -> None:
        self.engine = sqlite_engine(self._data, **self._settings)
        await self.engine.open()
        logs = (await self.engine.create_topic(spec("t", 3))).partitions
        self.clients = [Client(self.engine, log, self._chance) for log in logs]
        self.victim, *self.neighbours = self.clients
        for client in self.clients:
            await client.turn()

    @property
    def path(self) -> Path:
        """The victim's file."""
        return self._data / "topics/t/0.db"

    def plan(self, kind: str, *, for_good: bool, landed: bool, first: int, **more) -> None:
        self._disk.plan = Plan(kind, self.path, first, for_good, landed, **more)

    async def until_it_fails(self) -> None:
        """Let all clients produce until the victim's disk fails and an append reports it."""
        for _ in range(APPENDS_MAX):
            try:
                await asyncio.gather(*(client.turn() for client in self.neighbours))
                await self.victim.turn()
            except (OutcomeUnknownError, PartitionUnavailableError):
                break
            if self._disk.plan.failures and not self._disk.plan.told:
                return
        else:
            raise AssertionError(f"nothing has failed: {self._disk.plan}")
        assert self._disk.plan.failures

    async def is_failed(self) -> None:
        """The victim refuses writes with the reason and serves reads; its neighbours are not affected."""
        with pytest.raises(PartitionUnavailableError, match="topic 't' partition 0"):
            await self.victim.turn()
        with pytest.raises(PartitionUnavailableError):
            await self.victim.commit(0)
        assert ["topic 't' partition 0" in sentence for sentence in self.engine.troubles] == [True]
        await self.victim.read()
        for client in self.neighbours:
            await client.turn()

    async def comes_back(self) -> float:
        """The victim recovers without a restart, at the next offset; returns the seconds that took."""
        end, began = self.victim.log.end_offset, time.monotonic()
        while True:
            try:
                await self.victim.turn()
            except (PartitionUnavailableError, StorageFullError):
                assert time.monotonic() - began < COME_BACK_S_MAX, self.engine.troubles
                await asyncio.sleep(0.02)
            else:
                break
        assert end in self.victim.told.acked
        assert list(self.engine.troubles) == []
        return time.monotonic() - began

    async def faults_after_a_crash(self, share: float | None = None) -> list[str]:
        """What is missing from an engine that is started on what a power cut would leave now.

        share: how much of the unsynced data is lost; None chooses none, a half or all of it at random.
        """
        copy = next(self._copies)
        # No checkpoint may run: a copy, unlike a power cut, takes time. The event loop, and everything that
        # it would start, is blocked meanwhile.
        while busy := [client.log for client in self.clients if not at_rest(client.log.life)]:
            await busy[0].life.rested()
        share = self._chance.choice([0, 0.5, 1]) if share is None else share
        self._disk.crash(self._data, copy, self._chance, share)
        engine = sqlite_engine(copy, **SETTINGS, strict=True)
        try:
            await engine.open()
        except StartupError as error:
            return [str(error)]
        faults = []
        for client, log in zip(self.clients, engine.topics["t"].partitions, strict=True):
            faults += await faults_of(client.told, log, engine.offsets) or await client.faults_after_a_repeat(
                log, engine.offsets
            )
        await engine.close()
        check_files(copy)
        return faults

    async def run(self, *, for_good: bool) -> float:
        """Go from the failure to its end; returns the seconds that the partition took to recover."""
        await self.until_it_fails()
        await self.is_failed()
        assert await self.faults_after_a_crash() == []
        if for_good:
            await asyncio.sleep(2 * SETTINGS["recover_wait_ms"] / 1_000)
            await self.is_failed()
            assert await self.faults_after_a_crash() == []
        self._disk.plan = None
        wait = await self.comes_back()
        assert await self.faults_after_a_crash() == []
        for client in self.clients:
            await client.turn()
        await self.close()
        return wait

    async def close(self) -> None:
        """Close the engine; everything is there before and after."""
        for client in self.clients:
            assert await faults_of(client.told, client.log, self.engine.offsets) == []
        await self.engine.close()
        check_files(self._data)
        assert await self.faults_after_a_crash() == []


def at_rest(life: Life) -> bool:
    return life.at_rest or life.step is Step.END


async def faults_of(told: Told, log, offsets) -> list[str]:
    found = [(row[0], row[3]) for row in await read_all(log)]
    return told.faults(log, found, offsets.of("group").get(name_of(log)))


@pytest.mark.parametrize(
    "count", [8, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]
)
async def test_a_failing_disk(tmp_path, count, figures):
    """After EIO in the N-th call nothing unsynced is acknowledged or served, and the partition recovers."""
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"FAULT_SEED={seed}")
    waits, acked, unknown = [], 0, 0
    for number, (kind, for_good, landed, first) in enumerate(trials(count)):
        print(f"trial {number}: {kind} {first}, for good {for_good}, landed {landed}")
        with failing_disk() as disk:
            trial = Trial(tmp_path / str(number), disk, seed + number)
            await trial.open()
            trial.plan(kind, for_good=for_good, landed=landed, first=first)
            waits.append(await trial.run(for_good=for_good))
        acked += sum(len(values) for client in trial.clients for values in client.told.acked.values())
        unknown += trial.victim.told.unknown_in_all
    figures(
        f"EIO: {count} failures, {acked} acked, 0 lost, {unknown} outcomes unknown, "
        f"back after {max(waits):.1f} s at most"
    )


async def test_a_failed_group_leaves_nothing_in_mind(tmp_path):
    """Producers of a failed group leave no trace: they replace nobody, and may begin again."""
    with failing_disk() as disk:
        engine = sqlite_engine(tmp_path / "data", **SETTINGS, producers_max=3)
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        path = tmp_path / "data/topics/t/0.db"
        await log.append(under(batch(b"v"), b"a"))
        for number in range(5):
            disk.plan = Plan("write", path, 1, for_good=False, wal=True, code=apsw.SQLITE_FULL)
            group = [under(batch(b"lost"), b"a", 1), under(batch(b"lost"), b"a", 1)]
            group += [under(batch(b"lost"), b"%d" % number), under(batch(b"lost"), expected_offset=9)]
            told = await asyncio.gather(*map(log.append, group), return_exceptions=True)
            assert [type(each) for each in told] == [StorageFullError] * 4
            disk.plan = None
            await engine._parts.upkeep.look_at_space()
        landed = [await log.append(under(batch(b"v"), producer_id)) for producer_id in (b"0", b"1")]
        assert [(each.offset, each.duplicate) for each in landed] == [(1, False), (2, False)]
        assert (await log.append(under(batch(b"v"), b"a"))).duplicate
        assert [row[3] for row in await read_all(log)] == [b"v"] * 3
        await engine.close()
        check_files(tmp_path / "data")


async def append_for_ever(engine, log) -> None:
    """Append as the broker does, until something is refused."""
    while True:
        await engine.room()
        await log.append(batch(b"v" * 50_000))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (apsw.SQLITE_FULL, errno.ENOSPC),
        (apsw.SQLITE_IOERR_WRITE, errno.EDQUOT),
        (apsw.SQLITE_CANTOPEN, errno.EDQUOT),
        (apsw.SQLITE_CANTOPEN, errno.ENOSPC),
    ],
)
@pytest.mark.parametrize("wal", [True, False], ids=["commit", "checkpoint"])
async def test_a_quota_is_a_full_disk(tmp_path, code, reason, wal):
    """A used-up quota is treated and named as a full disk: no partition fails, and writes resume."""
    with failing_disk() as disk:
        engine = sqlite_engine(tmp_path / "data", **SETTINGS | {"checkpoint_pages": 1 if not wal else 1_000})
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        path = tmp_path / "data/topics/t/0.db"
        disk.plan = Plan("write", path, 1, for_good=True, wal=wal, code=code, errno=reason)
        with pytest.raises(StorageFullError, match="the disk is full"):
            await append_for_ever(engine, log)
        assert [trouble for trouble in engine.troubles if "fail" in trouble] == []
        disk.plan = None
        await engine._parts.upkeep.look_at_space()
        await log.append(batch(b"v"))
        await engine.close()
        check_files(tmp_path / "data")


async def test_a_disk_that_is_full_in_spite_of_its_free_blocks(tmp_path):
    """An offset commit waits for the space that is being made, for a bounded time, and then gets an error."""
    with failing_disk() as disk:
        engine = sqlite_engine(tmp_path / "data", busy_wait_ms_max=300)
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        await log.append(batch(b"v"))
        path = tmp_path / "data/topics/t/0.db"
        disk.plan = Plan("write", path, 1, for_good=True, wal=True, code=apsw.SQLITE_FULL)
        waiting = engine.offsets.commit("group", {name_of(log): CommittedOffset(0, "", NOW)})
        with pytest.raises(StorageFullError):
            await asyncio.wait_for(waiting, 20)
        disk.plan = None
        await engine.close()
        check_files(tmp_path / "data")


async def test_another_error_of_a_write_is_none_of_a_full_disk(tmp_path):
    """An I/O error fails the partition, also where a quota was used up before."""
    with failing_disk() as disk:
        engine = sqlite_engine(tmp_path / "data", **SETTINGS | {"recover_wait_ms": 60_000})
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        path = tmp_path / "data/topics/t/0.db"
        disk.plan = Plan("write", path, 1, for_good=True, code=apsw.SQLITE_IOERR_WRITE, errno=errno.EDQUOT)
        with pytest.raises(StorageFullError):
            await log.append(batch(b"v"))
        disk.plan = Plan("sync", path, 1, for_good=False, errno=errno.EDQUOT)
        await engine._parts.upkeep.look_at_space()
        with pytest.raises(OutcomeUnknownError):
            await log.append(batch(b"v"))
        assert log.life.failed
        disk.plan = None
        await engine.close()


@pytest.mark.control
async def test_an_acknowledgement_in_spite_of_it_is_seen(tmp_path):
    """Control: if a sync fails silently, so that its group is acknowledged, the check reports it."""
    seen, number = 0, 0
    while seen < 2:
        assert number < CONTROL_TRIALS_MAX, f"seen {seen} times"
        with failing_disk() as disk:
            trial = Trial(tmp_path / str(number), disk, number)
            await trial.open()
            trial.plan("sync", for_good=True, landed=False, first=1 + number % 6, told=False)
            await trial.until_it_fails()
            seen += bool(await trial.faults_after_a_crash(share=1))
            disk.plan = None
            await trial.engine.close()
        number += 1

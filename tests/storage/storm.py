"""A storm over the SQLite engine: everything that can happen to it happens at once, in a seeded order.

Clients append, read, trim, commit, and change topics, and leave some of their calls early. Only a few files
may be open, checkpoints come every few pages, holds come and go, and the disk may fail. This file owns who
does what; what must be true afterwards is in storm_ledger.py. The choices of each client repeat with the
seed. How they interleave does not, because threads and disks have a say in it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import apsw
from structlog.testing import capture_logs

from blackbox.copies import until
from faults.failing_disk import Disk, Plan
from storage.storm_ledger import Ledger, changes_under_held, looked_at, state_of
from storage.support import Store
from takhin.disk.layout import Layout
from takhin.errors import TakhinError
from takhin.model import CommittedOffset
from takhin.testing.contract import NOW, batch, changed, name_of, spec

CLIENTS = 12
SETTINGS = {
    "checkpoint_pages": 4,
    "commit_group_records_max": 50,
    "recover_wait_ms": 50,
    "busy_wait_ms_max": 400,
    "ballast_bytes": 1 << 20,
    "free_bytes_low": 0,
}
TOPICS = ("a", "b", "c", "d", "e", "f")
"""The names of all topics there may be; the storm begins with half of them."""
SIZES = (10, 3_000)
"""Of a value, in bytes."""
RECORDS = (1, 5, 40)
"""Of a batch; the last one nearly fills a commit group."""
LEFT_EARLY = 0.1
"""The share of the calls that their clients cancel, after at most LEFT_AFTER_S."""
LEFT_AFTER_S = 0.01
REFUSED_WAIT_S = 0.002
"""How long a client waits after an error."""
LULLS = 0.5
"""The share of the holds that are asked for in a lull: logs at rest are what SQLite would restart."""
FAILURES = [("sync", None), ("write", None), ("write", apsw.SQLITE_FULL)]
"""(call, error code). SQLite reports a full disk only of a write, and only of one that was cut short."""
BROKEN_S_MAX = 1.0
"""How long a file fails at most."""
CALL_S_MAX = 15.0
"""No call takes longer, whatever happens; nor does an answer to a hold, or the calm after a storm."""


class Client:
    """Makes one call after another, each of them chosen at random. Has a consumer group of its own."""

    def __init__(self, storm: Storm, number: int) -> None:
        self._storm = storm
        self._chance = random.Random(f"{storm.seed} client {number}")
        self._group = f"group-{number}"
        self._commits = itertools.count()
        self._calls = {
            self.append: 50,
            self.read: 20,
            self.commit: 15,
            self.trim: 5,
            self.forget: 2,
            self.create: 1,
            self.alter: 1,
            self.delete: 1,
        }

    async def run(self) -> None:
        """Make calls until the storm is over."""
        while not self._storm.is_over:
            await self._storm.blows.wait()
            (call,) = self._chance.choices(list(self._calls), list(self._calls.values()))
            topics = list(self._storm.store.engine.topics.values())
            if call == self.create or not topics:
                await self._made(self.create, None, None)
            else:
                topic = self._chance.choice(topics)
                await self._made(call, topic, self._chance.choice(topic.partitions))

    async def _made(self, call, topic, log) -> None:
        """Make a call to its end, or leave it after a moment."""
        leaves = self._chance.random() < LEFT_EARLY
        outcome = call.__name__
        try:
            async with asyncio.timeout(self._chance.uniform(0, LEFT_AFTER_S) if leaves else CALL_S_MAX):
                await call(topic, log)
        except TimeoutError as error:
            if not leaves:
                raise AssertionError(f"{outcome} took {CALL_S_MAX} s: {self._storm.troubles}") from error
            outcome = "left early"
        except TakhinError as error:
            outcome = type(error).__name__
            await asyncio.sleep(REFUSED_WAIT_S)
        self._storm.counts[outcome] += 1
        await asyncio.sleep(0)  # some calls are refused without a wait

    async def append(self, _, log) -> None:
        filler = b"." * self._chance.choice(SIZES)
        values = [b"%d" % next(self._storm.numbers) + filler for _ in range(self._chance.choice(RECORDS))]
        self._storm.ledger.sends(log, values)
        landed = await log.append(batch(*values))
        self._storm.ledger.acked(log, landed, values)

    async def read(self, _, log) -> None:
        offset = self._chance.randint(log.start_offset, log.end_offset)
        page = await log.read(offset, max_bytes=100_000, max_records=50)
        self._storm.ledger.served(log, offset, page)

    async def trim(self, _, log) -> None:
        offset = self._chance.randint(log.start_offset, log.end_offset)
        self._storm.ledger.trims(log, offset)
        await log.trim(offset)

    async def commit(self, topic, _) -> None:
        number = next(self._commits)
        committed = CommittedOffset(0, str(number), NOW)
        logs = topic.partitions
        await self._storm.store.engine.offsets.commit(self._group, {name_of(log): committed for log in logs})
        self._storm.ledger.committed(self._group, logs, number)

    async def forget(self, *_) -> None:
        self._storm.ledger.forgets(self._group)
        await self._storm.store.engine.offsets.forget(self._group)

    async def create(self, *_) -> None:
        wanted = spec(self._chance.choice(TOPICS), self._chance.randint(1, 4))
        await self._storm.store.engine.create_topic(wanted)

    async def alter(self, topic, _) -> None:
        await changed(self._storm.store.engine, spec(topic.name, self._chance.randint(1, 5)))

    async def delete(self, topic, _) -> None:
        await self._storm.store.engine.delete_topic(topic.name)


class Storm:
    """One engine, all who use it, and what they were told."""

    def __init__(
        self,
        folder: Path,
        seed: str,
        *,
        slots: int,
        holds: int,
        disk: Disk | None,
        breaks: int,
        lulls: float = LULLS,
    ) -> None:
        """slots: how many files may be open. The storm is over after so many holds and disk failures."""
        self.seed = seed
        self.store = Store(folder, open_partitions_max=slots, **SETTINGS)
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        """Calls by outcome."""
        self.held = self.broken = 0
        self.plans: list[Plan] = []
        self.numbers = itertools.count()
        """Every value begins with one of its own."""
        self.is_over = False
        self.blows = asyncio.Event()
        """Clear in a lull: clients begin no call, and write-ahead logs get copied entirely."""
        self.blows.set()
        self._layout = Layout(folder)
        self._holds = holds
        self._lulls = lulls
        self._disk = disk
        self._breaks = breaks if disk is not None else 0

    @property
    def troubles(self) -> str:
        """What the engine says is wrong, and how the disk has failed so far."""
        return f"{self.store.engine.troubles}; the disk failed by {self.plans}"

    async def run(self) -> list[str]:
        """Let it rage, calm down, and open the engine again: a sentence for each promise that was broken."""
        faults = self.ledger.faults
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context)))
        with capture_logs() as logs:
            await self.store.open()
            for name in TOPICS[::2]:
                await self.store.engine.create_topic(spec(name, 3))
            await self._rage()
            await self._calm()
            before = state_of(self.store.engine)
            async with asyncio.timeout(CALL_S_MAX):
                await self.store.reopen()
            if (after := state_of(self.store.engine)) != before:
                faults.append(f"the files hold {after} instead of {before}")
            faults += await self.ledger.faults_of_engine(self.store.engine)
            await self.store.close()
        faults += [f"logged as an error: {entry}" for entry in logs if entry["log_level"] == "error"]
        return faults

    async def _rage(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(Client(self, number).run())
            await asyncio.gather(self._come_and_go(), self._break_and_mend())
            self.is_over = True

    async def _calm(self) -> None:
        """Wait until nothing is under way and nothing is wrong, as is to be expected once nobody calls."""
        engine = self.store.engine
        async with asyncio.timeout(CALL_S_MAX):
            while engine.troubles:  # noqa: ASYNC110  the engine has no event for it
                await asyncio.sleep(0.01)
            await engine._parts.catalogue.settled()
            for log in engine._parts.catalogue.logs():
                await log.life.rested()
        if queued := engine.stats()["queued_bytes"]:
            self.ledger.faults.append(f"{queued} bytes are queued at rest")

    async def _calls(self, number: int) -> None:
        """Wait until so many more calls have ended."""
        target = self.counts.total() + number
        while self.counts.total() < target:  # noqa: ASYNC110  an event for each call would slow the storm
            await asyncio.sleep(0.002)

    async def _come_and_go(self) -> None:
        """Hold the files again and again, and compare them at the beginning and the end of each hold."""
        chance = random.Random(f"{self.seed} holds")
        while self.held < self._holds and not self.ledger.faults:
            await self._calls(chance.randint(1, 300))
            if chance.random() < self._lulls:
                self.blows.clear()
            self._layout.hold.touch()
            try:
                await until(self._layout.held, there=True, seconds_max=CALL_S_MAX)
            except AssertionError as error:
                raise AssertionError(f"{error}; {self.troubles}") from error
            before = await looked_at(self._layout.data_dir)
            self.blows.set()
            await self._calls(chance.randint(1, 300))
            after = await looked_at(self._layout.data_dir)
            self.ledger.faults += changes_under_held(before, after)
            self._layout.hold.unlink()
            self.held += 1
            if chance.random() < 0.8:  # else the next hold may come before this one's end was noticed
                await until(self._layout.held, there=False, seconds_max=CALL_S_MAX)

    async def _break_and_mend(self) -> None:
        """Let a file fail, one after the other, for a few calls of the clients."""
        chance = random.Random(f"{self.seed} disk")
        while self.broken < self._breaks:
            if logs := self.store.engine._parts.catalogue.logs():
                kind, code = chance.choice(FAILURES)
                plan = Plan(
                    kind,
                    chance.choice(logs).path,
                    chance.randint(1, 6),
                    for_good=chance.random() < 0.5,
                    landed=code is None and chance.random() < 0.5,
                    wal=chance.choice([None, True, False]),
                    code=code,
                )
                self._disk.plan = plan
                self.plans.append(plan)
                with suppress(TimeoutError):  # while the disk is full, commits and trims wait for space
                    async with asyncio.timeout(BROKEN_S_MAX):
                        await self._calls(chance.randint(50, 300))
                self._disk.plan = None
                self.broken += bool(plan.failures)
            await self._calls(chance.randint(1, 100))

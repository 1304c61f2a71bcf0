"""Members that come, go, break off and return: no partition is read twice, and no offset goes back.

Zombies are members that were removed and commit on. The control lets them: it has to see offsets go back.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest

from groups.attendee import NOW, Attendee, create, until
from takhin.errors import RefusedError
from takhin.groups.coordinator import Coordinator
from takhin.members import Committer, JoinGroup
from takhin.model import CommittedOffset, TopicPartition
from takhin.settings import GroupSettings

STORM_SECONDS = 1.5
COMMITS_MIN = 100
MEMBERS = 6
PARTITIONS = 12


class Storm:
    """A group under members that do what they like, as a random number says."""

    def __init__(self, engine, coordinator: Coordinator, random: Random, *, fenced: bool) -> None:
        self._engine = engine
        self._coordinator = coordinator
        self._random = random
        self._fenced = fenced
        self.holders: dict[TopicPartition, set[str]] = {}
        self.commits = self.refused = self.went_back = self.read_twice = 0
        self._highest: dict[TopicPartition, int] = {}

    @property
    def has_shown(self) -> bool:
        """True if what the storm is about has happened: on a busy machine that takes longer."""
        if self._fenced:
            return self.commits > COMMITS_MIN and self.refused > 0
        return self.went_back > 0

    async def run(self) -> None:
        """Let members live, one life after the other, until the time is over and has shown something."""
        async with asyncio.timeout(10 * STORM_SECONDS):
            await asyncio.gather(*(self._lives() for _ in range(MEMBERS)))

    async def _lives(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + STORM_SECONDS
        while loop.time() < end or not self.has_shown:
            member = StormMember(self, await self._join())
            await self._work(member, self._random.uniform(0.05, 0.5))
            match self._random.choice(["leave", "break off", "come back"]):
                case "leave":
                    member.leave()
                case "break off":
                    member.break_off()
                    await self._work_as_zombie(member)
                case "come back":
                    member.break_off()
                    await self._come_back(member)

    async def _come_back(self, member: Attendee) -> None:
        with suppress(RefusedError):
            membership = await self._join(member_id=member.member_id, epoch=member.epoch, owned=member.owned)
            again = StormMember(self, membership, member.owned)
            await self._work(again, 0.1)
            again.leave()

    async def _join(self, **fields):
        request = JoinGroup("g", topics=frozenset({"orders"}), **fields)
        return await self._coordinator.join(request, "127.0.0.1:40000")

    async def _work(self, member: Attendee, seconds: float) -> None:
        """Commit what the member holds, again and again."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            for at in sorted(member.owned):
                if at in member.owned:
                    await self._commit(member, at, self._highest.get(at, 0) + 1)
            await asyncio.sleep(self._random.uniform(0, 0.01))

    async def _work_as_zombie(self, member: Attendee) -> None:
        """Commit offsets from before once the member is removed, and others may be further."""
        held = {at: self._highest.get(at, 0) for at in member.owned}
        await asyncio.sleep(self._random.uniform(0, 0.2))
        for at, offset in held.items():
            await self._commit(member, at, offset)

    async def _commit(self, member: Attendee, at: TopicPartition, offset: int) -> None:
        try:
            if self._fenced:
                committer = Committer(member.member_id, member.epoch)
                async with self._coordinator.committing("g", committer, [at]) as fences:
                    await asyncio.sleep(self._random.uniform(0, 0.005))
                    await self._engine.offsets.commit("g", {at: CommittedOffset(offset, "", NOW)}, fences)
            else:
                await self._engine.offsets.commit("g", {at: CommittedOffset(offset, "", NOW)})
        except RefusedError:
            self.refused += 1
            return
        self.commits += 1
        self.went_back += offset < self._highest.get(at, 0)
        self._highest[at] = max(self._highest.get(at, 0), offset)


class StormMember(Attendee):
    """A member that takes its time to let go of what it is to let go of."""

    def __init__(self, storm: Storm, membership, owned: frozenset[TopicPartition] = frozenset()) -> None:
        self._storm = storm
        super().__init__(membership)
        self.hold(owned)

    async def obey(self) -> None:
        told = self.told[-1]
        self.hold(self.owned | told.partitions)
        if self.owned != told.partitions:
            await asyncio.sleep(self._storm._random.uniform(0, 0.01))
        self.let_go(told.partitions)
        await super().obey()

    def hold(self, partitions: frozenset[TopicPartition]) -> None:
        for at in partitions:
            holders = self._storm.holders.setdefault(at, set())
            holders.add(self.member_id)
            self._storm.read_twice += len(holders) > 1
        self.owned = partitions

    def let_go(self, but_for: frozenset[TopicPartition]) -> None:
        for at in self.owned - but_for:
            self._storm.holders[at].discard(self.member_id)
        self.owned &= but_for

    def leave(self) -> None:
        self._stop()
        super().leave()

    def break_off(self) -> None:
        """What it holds is its own until it is removed, and nobody's business after that."""
        self._stop()
        super().break_off()

    def _stop(self) -> None:
        self.reader.cancel()
        for holders in self._storm.holders.values():
            holders.discard(self.member_id)


@pytest.fixture
async def storm(request, engine):
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    settings = GroupSettings(rejoin_ms=50, first_wait_ms=0, change_wait_ms=5)
    coordinator = Coordinator(engine, settings, lambda: NOW)
    await coordinator.start()
    await create(engine, "orders", PARTITIONS)
    storm = Storm(engine, coordinator, Random(seed), fenced=request.param)
    await storm.run()
    await until(lambda: not coordinator.populated)
    yield storm
    await coordinator.stop(0)


@pytest.mark.parametrize("storm", [True], indirect=True)
async def test_a_storm(storm, figures):
    """Every partition has one holder at a time, and zombies move no offset back."""
    figures(f"{storm.commits} commits taken, {storm.refused} refused")
    assert (storm.read_twice, storm.went_back) == (0, 0)
    assert storm.commits > COMMITS_MIN
    assert storm.refused > 0


@pytest.mark.parametrize("storm", [False], indirect=True)
async def test_a_storm_without_fences(storm, figures):
    """The control: without them some commits of zombies move offsets back."""
    figures(f"{storm.commits} commits taken, {storm.went_back} of them back")
    assert storm.went_back > 0

"""What the coordinator's tests share: a member that obeys, and waits that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from takhin.groups.membership import Membership
from takhin.members import Assignment, Heartbeat, HeartbeatAnswer
from takhin.model import TopicConfig, TopicPartition, TopicSpec
from takhin.storage.contract import Engine

NOW = 1_700_000_000_000
WAIT_SECONDS = 10.0


async def create(engine: Engine, name: str, partitions: int) -> list[TopicPartition]:
    """Create a topic; returns its partitions."""
    await engine.create_topic(TopicSpec(name, partitions, TopicConfig(max_message_bytes=1_000)))
    return [TopicPartition(name, partition) for partition in range(partitions)]


async def until(condition: Callable[[], object]) -> None:
    """Return when that holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  no event tells of all that is waited for
            await asyncio.sleep(0.001)


class Attendee:
    """A member that does at once what it is told. A task reads what that is."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.member_id = membership.member_id
        self.epoch = 0
        self.owned: frozenset[TopicPartition] = frozenset()
        self.told: list[Assignment] = []
        self.answers: list[int] = []
        self.obedient = True
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (response := await self.membership.next()) is not None:
            if isinstance(response, HeartbeatAnswer):
                self.answers.append(response.epoch)
            else:
                self.epoch = response.epoch
            if isinstance(response, Assignment):
                self.told.append(response)
                if self.obedient:
                    await self.obey()

    async def obey(self) -> None:
        """Hold what the last assignment says, and say so."""
        self.owned = self.told[-1].partitions
        await self.membership.hear(Heartbeat(self.epoch, self.owned))

    async def owns(self, partitions: Iterable[TopicPartition]) -> None:
        """Return when it owns just these."""
        wanted = frozenset(partitions)
        await until(lambda: self.told and self.owned == wanted)

    async def ended(self) -> BaseException | None:
        """Return what its stream has ended with; None: in order."""
        async with asyncio.timeout(WAIT_SECONDS):
            return (await asyncio.gather(self.reader, return_exceptions=True))[0]

    def leave(self) -> None:
        self.membership.leave()

    def break_off(self) -> None:
        self.membership.broken()


async def shared(members: Iterable[Attendee], partitions: Iterable[TopicPartition]) -> None:
    """Return when the members own all of the partitions, evenly and each one once."""
    members, wanted = list(members), sorted(partitions)

    def done() -> bool:
        sizes = [len(member.owned) for member in members]
        return (
            sorted(at for member in members for at in member.owned) == wanted and max(sizes) - min(sizes) <= 1
        )

    await until(done)

"""A broker's coordinator, simulated: streams, lost answers, commits under way, a clock.

It does what actions say and nothing else, so the books that it keeps by them show whether they are right.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest

from groups.client import Client, Joined
from takhin.errors import (
    GroupFullError,
    InstanceInUseError,
    RefusedError,
)
from takhin.groups.assignors import assign
from takhin.groups.events import (
    Action,
    Arm,
    Broken,
    CatalogueChanged,
    CommitsEnded,
    Deadline,
    DeadlinePassed,
    Disarm,
    Event,
    Join,
    Leave,
    Release,
    Remove,
    StepsDue,
    TargetMade,
    Tell,
    WantSteps,
    WantTarget,
)
from takhin.groups.group import Group, Rules, Subscription
from takhin.groups.state import may_commit, step
from takhin.model import TopicPartition

REJOIN_MS = 300
RULES = Rules(target_interval_ms=50, first_target_ms=100, rejoin_ms=REJOIN_MS, members_max=6, steps_at_once=2)
BOOT = 1 << 32


@dataclass(eq=False)
class Commit:
    """A commit on its way, or accepted and not durable yet. fenced: ownership ended meanwhile."""

    client: Client
    member_id: str
    epoch: int
    partition: TopicPartition
    offset: int
    awaited: bool = True
    fenced: bool = False


class World:
    """The coordinator of one group, its clients and the time."""

    def __init__(self) -> None:
        self.now, self.boot = 1_000, 1
        self.catalogue: dict[str, int] = {"a": 4, "b": 3}
        self.group = Group.new("g", BOOT, RULES, self.catalogue)
        self.clients: list[Client] = []
        self.streams: dict[str, Client] = {}
        self.mirror: dict[str, set[TopicPartition]] = {}
        self.timers: dict[tuple[str, Deadline], Arm] = {}
        self.target_due: int | None = None
        self.steps_due = False
        self.making: list[TargetMade] = []
        self.shift = 0
        self.sent: list[Commit] = []
        self.accepted: list[Commit] = []
        self.committed: dict[TopicPartition, int] = {}
        self.committers: dict[TopicPartition, str] = {}
        self.owners: dict[tuple[TopicPartition, int], str] = {}
        self.counts: Counter[str] = Counter()

    # The coordinator.

    @property
    def busy(self) -> frozenset[TopicPartition]:
        return frozenset(each.partition for each in self.accepted)

    def step(self, event: Event) -> None:
        """Hand an event to the machine and do what it says."""
        before = self.group
        self.group, actions = step(before, event, self.now, self.busy)
        self.counts[type(event).__name__] += 1
        for action in actions:
            self._do(action)
        self._compare(before, event)

    def _do(self, action: Action) -> None:
        match action:
            case Tell():
                self._tell(action)
            case Release():
                self._release(action)
            case Remove():
                self._remove(action)
            case Arm(member_id, kind):
                self.timers[member_id, kind] = action
            case Disarm(member_id, kind):
                del self.timers[member_id, kind]
            case WantTarget(at):
                self.target_due = at
            case WantSteps():
                self.steps_due = True

    def _tell(self, tell: Tell) -> None:
        mirror = self.mirror.setdefault(tell.member_id, set())
        for each in tell.partitions - mirror:
            others = {one for one, has in self.mirror.items() if each in has}
            assert not others, f"{each} is given to {tell.member_id} and is {others}'s"
            assert each not in self.busy, f"{each} is handed over with a commit under way"
        mirror |= tell.partitions
        if (client := self.streams.get(tell.member_id)) is not None:
            client.inbox.append(tell)

    def _release(self, release: Release) -> None:
        self.mirror[release.member_id] -= release.partitions
        for commit in self.accepted:
            if commit.member_id == release.member_id and commit.partition in release.partitions:
                commit.fenced = True

    def _remove(self, remove: Remove) -> None:
        assert not self.mirror.pop(remove.member_id, set())
        self.timers = {key: arm for key, arm in self.timers.items() if key[0] != remove.member_id}
        if (client := self.streams.pop(remove.member_id, None)) is not None:
            client.inbox.append(remove.error)
        for each in self.clients:
            if each.member_id == remove.member_id:
                each.ended = True

    def _compare(self, before: Group, event: Event) -> None:
        """What one step may change, and what it may not."""
        after = self.group
        assert before.epoch <= after.epoch <= before.epoch + 2
        assert before.target_epoch <= after.target_epoch
        for member_id, member in after.members.items():
            was = before.members.get(member_id)
            if was is not None:
                lost = was.assigned - member.assigned
                assert lost.isdisjoint(after.target.get(member_id, ())), (
                    f"{event} interrupts {member_id} in {lost}"
                )
                assert member.away or was.away or was.epoch <= member.epoch

    def arrive(self, client: Client, event: Event) -> None:
        """A client's message arrives. A refusal ends its stream. A living member is never refused."""
        if isinstance(event, Join):
            old = self.streams.get(event.member_id)
            assert old in (None, client)
            event = self._returning(event)
        elif self.streams.get(event.member_id) is not client:
            return
        try:
            self.step(event)
        except RefusedError as error:
            not_taken = isinstance(error, GroupFullError | InstanceInUseError)
            if not (not_taken or client.ended):
                pytest.fail(f"{event} of a living member is refused: {error}")
            client.inbox.append(error)
            return
        if isinstance(event, Join):
            self.streams[event.member_id] = client
            member = self.group.members[event.member_id]
            client.inbox.clear()
            client.inbox += [Joined(member.epoch), Tell(member.member_id, member.epoch, member.assigned)]
            client.strayed = {each for each in client.held if each not in member.held}
            client.ended = False

    def _returning(self, event: Join) -> Join:
        if self.now >= self.group.quiet_until:
            return event
        given = {name: getattr(event, name) for name in event.__slots__}
        return Join(**{**given, "returning": True})

    def breaks(self, client: Client) -> None:
        """A client's stream breaks: what was under way on it is lost."""
        client.lose_stream()
        if self.streams.get(client.member_id) is client:
            del self.streams[client.member_id]
            self.step(Broken(client.member_id))

    def make_target(self) -> None:
        """An assignor begins with the group as it is. Its answer comes later."""
        self.target_due = None
        made = assign(self.group)
        self.making.append(replace(made, target=self.rotated()) if self.shift else made)

    def rotated(self) -> dict[str, frozenset[TopicPartition]]:
        """A target that no assignor would make: by `shift`, everything can move at once."""
        target = {member_id: frozenset() for member_id in self.group.members}
        for name, count in self.catalogue.items():
            readers = [one for one, each in self.group.members.items() if name in each.subscription.names]
            for number in range(count if readers else 0):
                target[readers[(number + self.shift) % len(readers)]] |= {TopicPartition(name, number)}
        return target

    def target_made(self) -> None:
        if self.making:
            self.step(self.making.pop(0))

    def take_steps(self, *, all_of_them: bool) -> None:
        """Members of a large group follow its target: some more of them, or all."""
        while self.steps_due:
            self.steps_due = False
            self.step(StepsDue())
            if not all_of_them:
                break

    def pass_time(self, ms: int) -> None:
        """Time goes on; whatever becomes due is done in order."""
        end = self.now + ms
        while True:
            due = [(arm.at, *key) for key, arm in self.timers.items() if arm.at <= end]
            if self.target_due is not None and self.target_due <= end:
                due.append((self.target_due, "", Deadline.SESSION))
            if not due:
                break
            at, member_id, kind = min(due)
            self.now = max(self.now, at)
            if not member_id:
                self.make_target()
            else:
                arm = self.timers.pop((member_id, kind))
                self.step(DeadlinePassed(member_id, kind, arm.epoch))
        self.now = end

    def change_catalogue(self, catalogue: dict[str, int]) -> None:
        self.catalogue = catalogue
        for client in self.clients:
            client.subscription = self.resolved(client.subscription)
        patterns = {client.subscription.pattern for client in self.clients} - {None}
        self.step(CatalogueChanged(catalogue, {each: self.matched(each) for each in patterns}))

    def matched(self, pattern: str | None) -> frozenset[str]:
        """A pattern matches the names that have its letter."""
        return frozenset(name for name in self.catalogue if pattern is not None and pattern in name)

    def resolved(self, subscription: Subscription) -> Subscription:
        return Subscription(subscription.topics, subscription.pattern, self.matched(subscription.pattern))

    def restart(self) -> None:
        """The broker dies and starts again: it remembers committed offsets alone."""
        self.boot += 1
        for client in list(self.clients):
            client.lose_stream()
            client.ended = True
        for commit in self.accepted:
            commit.fenced = True
            commit.awaited = False
        self.streams, self.mirror, self.timers, self.accepted = {}, {}, {}, []
        self.target_due, self.making, self.steps_due = None, [], False
        self.group = Group.new("g", self.boot * BOOT, RULES, self.catalogue, quiet_until=self.now + REJOIN_MS)

    # Commits, which are calls beside the stream.

    def send_commit(self, client: Client, partition: TopicPartition) -> None:
        offset = client.positions[partition]
        self.sent.append(Commit(client, client.member_id, client.epoch, partition, offset))

    def commit_arrives(self, commit: Commit) -> None:
        self.sent.remove(commit)
        if not may_commit(self.group, commit.member_id, commit.epoch, frozenset([commit.partition])):
            assert self.group.owner[commit.partition] == commit.member_id
            self.accepted.append(commit)

    def commit_ends(self, commit: Commit) -> None:
        """An accepted commit is durable, or refused in the write because ownership has ended."""
        self.accepted.remove(commit)
        x = commit.partition
        if not commit.fenced:
            assert self.group.owner.get(x) == commit.member_id
            if self.committers.get(x, commit.member_id) != commit.member_id:
                assert commit.offset >= self.committed[x], "a former owner moves an offset back"
            self.committed[x], self.committers[x] = commit.offset, commit.member_id
        commit.awaited = False
        if x not in self.busy:
            self.step(CommitsEnded(frozenset([x])))

    # Clients.

    def awaited(self, client: Client) -> set[TopicPartition]:
        """Where a client waits for the answer to a commit."""
        commits = [*self.sent, *self.accepted]
        return {each.partition for each in commits if each.client is client and each.awaited}

    def deliver(self, client: Client) -> bool:
        """The next message of a client arrives."""
        if not client.out:
            return False
        self.arrive(client, client.out.popleft())
        return True

    def turn(self, client: Client) -> None:
        """All that is under way on a client's stream arrives, and it does what it has to."""
        while client.receive(self.committed) | self.deliver(client):
            client.let_go(self.awaited(client))

    def leave(self, client: Client, *, keep: bool) -> None:
        """A client lets go of everything, leaves in order, and ends."""
        client.drop()
        client.out.append(Leave(client.member_id, keep_for_restart=keep))
        while self.deliver(client):
            pass
        self.gone(client)

    def gone(self, client: Client) -> None:
        """A client's program has ended, whatever the broker knows of it."""
        client.alive = False
        self.clients.remove(client)
        if self.streams.get(client.member_id) is client:
            del self.streams[client.member_id]

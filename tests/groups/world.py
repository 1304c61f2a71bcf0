"""A broker's coordinator and the members of a group, simulated: streams, lost answers, commits under way, a clock.

The coordinator does what actions say and nothing else, so the books it keeps by them show whether they are right.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    InstanceInUseError,
    RefusedError,
    UnknownMemberError,
)
from takhin.groups.assignors import assign
from takhin.groups.events import (
    Arm,
    Broken,
    CatalogueChanged,
    CommitsEnded,
    Deadline,
    DeadlinePassed,
    Disarm,
    Event,
    Heartbeat,
    Join,
    Leave,
    Release,
    Remove,
    Subscribe,
    TargetMade,
    Tell,
    WantTarget,
)
from takhin.groups.group import JOINING, Group, MemberState, Rules, Subscription
from takhin.groups.state import may_commit, step
from takhin.model import TopicPartition

SESSION_MS, REVOKE_MS, REJOIN_MS = 2_000, 1_200, 300
RULES = Rules(target_interval_ms=50, first_target_ms=100, rejoin_ms=REJOIN_MS, members_max=6)
BOOT = 1 << 32


@dataclass(eq=False)
class Commit:
    """A commit on its way: sent, or accepted, in which case it has a fence."""

    client: Client
    member_id: str
    epoch: int
    partition: TopicPartition
    offset: int
    awaited: bool = True
    fenced: bool = False


@dataclass(eq=False)
class Client:
    """A member's program.

    held: what it reads or is letting go of. wanted: what it has been told that it may hold.
    out, inbox: what is under way on its stream, in both directions. None for out: it has no stream.
    strayed: what it holds against the books, because it has come back to a broker that gave it to another.
    ended: the coordinator has removed it, or forgotten it in a restart.
    """

    member_id: str
    instance_id: str
    subscription: Subscription
    epoch: int = JOINING
    held: set[TopicPartition] = field(default_factory=set)
    wanted: set[TopicPartition] = field(default_factory=set)
    strayed: set[TopicPartition] = field(default_factory=set)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    out: deque[Event] | None = None
    inbox: deque[Tell | RefusedError | None] = field(default_factory=deque)
    answered: bool = False
    alive: bool = True
    frozen: bool = False
    ended: bool = True

    @property
    def runs(self) -> bool:
        return self.alive and not self.frozen

    def drop(self) -> None:
        """Let go of everything, to join from the start."""
        self.epoch = JOINING
        for own in (self.held, self.wanted, self.strayed, self.positions):
            own.clear()


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
        self.making: list[TargetMade] = []
        self.sent: list[Commit] = []
        self.accepted: list[Commit] = []
        self.committed: dict[TopicPartition, int] = {}
        self.committers: dict[TopicPartition, str] = {}
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

    def _do(self, action: object) -> None:
        match action:
            case Tell(member_id, _, partitions):
                mirror = self.mirror.setdefault(member_id, set())
                for each in partitions - mirror:
                    others = {one for one, has in self.mirror.items() if each in has}
                    assert not others, f"{each} is given to {member_id} and is {others}'s"
                    assert each not in self.busy, f"{each} is handed over with a commit under way"
                mirror |= partitions
                if (client := self.streams.get(member_id)) is not None:
                    client.inbox.append(action)
            case Release(member_id, partitions):
                self.mirror[member_id] -= partitions
                for commit in self.accepted:
                    if commit.member_id == member_id and commit.partition in partitions:
                        commit.fenced = True
            case Remove(member_id, error):
                assert not self.mirror.pop(member_id, set())
                self.timers = {key: arm for key, arm in self.timers.items() if key[0] != member_id}
                if (client := self.streams.pop(member_id, None)) is not None:
                    client.inbox.append(error)
                for each in self.clients:
                    if each.member_id == member_id:
                        each.ended = True
            case Arm(member_id, kind):
                self.timers[member_id, kind] = action
            case Disarm(member_id, kind):
                del self.timers[member_id, kind]
            case WantTarget(at):
                self.target_due = at

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
        """A client's message arrives. A refusal ends the stream, and is right only if the client is removed."""
        if isinstance(event, Join):
            old = self.streams.get(event.member_id)
            assert old in (None, client)
            event = self._returning(event)
        elif self.streams.get(event.member_id) is not client:
            return
        try:
            self.step(event)
        except (UnknownMemberError, FencedMemberError) as error:
            assert client.ended, f"{event} of a living member is refused: {error}"
            client.inbox.append(error)
            return
        except (GroupFullError, InstanceInUseError) as error:
            client.inbox.append(error)
            return
        if isinstance(event, Join):
            self.streams[event.member_id] = client
            # What the machine said was for this stream, which it could not know of before.
            member = self.group.members[event.member_id]
            client.inbox.append(Tell(member.member_id, member.epoch, member.assigned))
            client.strayed = {each for each in client.held if each not in member.held}
            client.ended = False

    def _returning(self, event: Join) -> Join:
        if self.now >= self.group.quiet_until:
            return event
        given = {name: getattr(event, name) for name in event.__slots__}
        return Join(**{**given, "returning": True})

    def breaks(self, client: Client) -> None:
        """A client's stream breaks: what was under way on it is lost."""
        client.out, client.answered = None, False
        client.inbox.clear()
        if self.streams.get(client.member_id) is client:
            del self.streams[client.member_id]
            self.step(Broken(client.member_id))

    def make_target(self) -> None:
        """An assignor begins with the group as it is. Its answer comes later."""
        self.target_due = None
        self.making.append(assign(self.group))

    def target_made(self) -> None:
        if self.making:
            self.step(self.making.pop(0))

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
            client.out, client.answered, client.ended = None, False, True
            client.inbox.clear()
        for commit in self.accepted:
            commit.fenced = True
            self._answer(commit)
        self.streams, self.mirror, self.timers, self.accepted = {}, {}, {}, []
        self.target_due, self.making = None, []
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
        self._answer(commit)
        if x not in self.busy:
            self.step(CommitsEnded(frozenset([x])))

    def _answer(self, commit: Commit) -> None:
        commit.awaited = False

    # Clients.

    def connect(self, client: Client) -> None:
        """Open a stream; the first message is a join."""
        client.answered = False
        client.inbox.clear()
        join = Join(
            client.member_id,
            client.subscription,
            SESSION_MS,
            REVOKE_MS,
            "uniform",
            epoch=client.epoch,
            owned=frozenset(client.held) if client.epoch != JOINING else frozenset(),
            instance_id=client.instance_id,
        )
        client.out = deque([join])

    def deliver(self, client: Client) -> bool:
        """The next message of a client arrives."""
        if not client.out:
            return False
        self.arrive(client, client.out.popleft())
        return True

    def receive(self, client: Client) -> bool:
        """A client takes the next thing that came on its stream."""
        if not client.inbox or not client.runs:
            return False
        match client.inbox.popleft():
            case Tell(_, epoch, partitions):
                client.answered = True
                client.epoch, client.wanted = epoch, set(partitions)
                for each in partitions - client.held:
                    client.positions[each] = self.committed.get(each, 0)
                client.held |= partitions
            case _:  # the stream has ended: with an error, or after a leave
                client.drop()
                client.out, client.answered = None, False
                client.inbox.clear()
        return True

    def let_go(self, client: Client) -> bool:
        """A client has finished with what it is to let go of, once its commits there are answered, and says so."""
        gone = client.held - client.wanted - self._awaited(client)
        if not gone:
            return False
        for each in gone:
            del client.positions[each]
        client.held -= gone
        client.strayed -= gone
        self.beat(client, owned=True)
        return True

    def _awaited(self, client: Client) -> set[TopicPartition]:
        """Where a client waits for the answer to a commit, or is to send it yet."""
        commits = [*self.sent, *self.accepted]
        return {each.partition for each in commits if each.client is client and each.awaited}

    def beat(self, client: Client, *, owned: bool) -> None:
        """A client says that it lives, at the epoch that it knows of."""
        if client.answered and client.out is not None:
            said = frozenset(client.held) if owned else None
            client.out.append(Heartbeat(client.member_id, client.epoch, said))

    def subscribe(self, client: Client, subscription: Subscription) -> None:
        client.subscription = self.resolved(subscription)
        if client.answered and client.out is not None:
            client.out.append(Subscribe(client.member_id, client.subscription))

    def leave(self, client: Client, *, keep: bool) -> None:
        """A client leaves in order: it has let go of everything before, and ends."""
        if client.answered and client.out is not None:
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

    # What must hold after every step.

    def check(self) -> None:
        """The properties of `groups.md`, over the group, the coordinator's books and the clients."""
        self._check_members()
        self._check_books()
        self._check_clients()

    def _check_members(self) -> None:
        group = self.group
        assert group.floor <= group.target_epoch <= group.epoch
        assert group.target.keys() <= group.members.keys()
        assert group.epoch == group.target_epoch or group.wanted_at is not None
        assert group.members or group.epoch == group.target_epoch
        owners = Counter(each for member in group.members.values() for each in member.held)
        assert set(owners.values()) <= {1}, owners
        assert group.owner.keys() == owners.keys()
        for member_id, member in group.members.items():
            want = group.target.get(member_id, frozenset())
            assert want == member.subscription.of(want)
            assert member.assigned.isdisjoint(member.revoking)
            assert member.assigned_epochs.keys() == member.held
            assert member.unproven <= member.held
            unrevoked = member.state is MemberState.UNREVOKED
            assert unrevoked == bool(member.revoking) == (member.revoke_at is not None)
            if member.away:
                assert member.state is MemberState.STABLE
                continue
            assert group.floor <= member.heard <= member.epoch <= group.target_epoch
            assert all(epoch <= member.epoch for epoch in member.assigned_epochs.values())
            if member.epoch == group.target_epoch and member.state is MemberState.STABLE:
                assert member.assigned == want
            if member.state is MemberState.UNRELEASED:
                assert member.assigned < want
            assert not may_commit(group, member_id, member.epoch, member.held)

    def _check_books(self) -> None:
        """Actions alone lead to the same ownership and deadlines as the group has."""
        members = self.group.members
        assert {one: has for one, has in self.mirror.items() if has} == {
            one: set(member.held) for one, member in members.items() if member.held
        }
        armed = {key: arm.at for key, arm in self.timers.items()}
        assert armed == {
            (one, kind): at
            for one, member in members.items()
            for kind, at in zip(Deadline, member.deadlines, strict=True)
            if at is not None
        }
        for (member_id, kind), arm in self.timers.items():
            assert kind is not Deadline.REVOKE or arm.epoch == members[member_id].epoch

    def _check_clients(self) -> None:
        """What a member's program holds is its own by the books, so no two hold the same."""
        for client in self.clients:
            if not client.ended:
                own = self.group.members[client.member_id].held
                assert client.held - client.strayed <= own, (client.member_id, client.held - own)

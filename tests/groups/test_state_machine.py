"""Hypothesis invents what happens to a group: the properties of its state machine hold after every step.

The members are simulated programs that follow the protocol; their streams break, their answers get lost, they
freeze and come back as zombies. A failure prints the steps, and a blob that repeats them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from groups.client import SESSION_MS, Client
from groups.properties import check
from groups.world import REJOIN_MS, RULES, World
from takhin.groups.group import JOINING, Subscription
from takhin.model import GroupState

picks = st.integers(0, 7)
subscriptions = st.sampled_from(
    [Subscription(frozenset(names)) for names in ("a", "ab", "ab", "b", "bc", "")]
    + [Subscription(pattern=letter) for letter in "ac"]
)
catalogues = st.fixed_dictionaries({}, optional={name: st.integers(1, 6) for name in ("a", "b", "c", "ac")})
instances = st.sampled_from(["", "", "i", "j"])
CLIENTS_MAX = RULES.members_max + 1


class GroupMachine(RuleBasedStateMachine):
    """A group, its coordinator and its members, over whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.made = 0

    @initialize(those=st.lists(st.tuples(instances, subscriptions), min_size=1, max_size=5))
    def begin(self, those: list[tuple[str, Subscription]]) -> None:
        """Most sequences begin with a group that has come to rest."""
        for instance_id, subscription in those:
            self.join(instance_id, subscription, at_once=True)
        if len(those) > 1:
            self.world.pass_time(RULES.first_target_ms)
            self.world.target_made()
            self.world.take_steps(all_of_them=True)
            self.turn_of_all()

    @invariant()
    def holds(self) -> None:
        check(self.world)

    def client(self, pick: int) -> Client:
        return self.world.clients[pick % len(self.world.clients)]

    def new_client(self, instance_id: str, subscription: Subscription) -> Client:
        self.made += 1
        client = Client(f"m{self.made}", instance_id, self.world.resolved(subscription))
        self.world.clients.append(client)
        client.connect()
        return client

    @precondition(lambda self: len(self.world.clients) < CLIENTS_MAX)
    @rule(instance_id=instances, subscription=subscriptions, at_once=st.booleans())
    def join(self, instance_id: str, subscription: Subscription, *, at_once: bool) -> None:
        client = self.new_client(instance_id, subscription)
        if at_once:
            self.world.turn(client)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, times=st.integers(1, 4))
    def deliver(self, pick: int, times: int) -> None:
        for _ in range(times):
            self.world.deliver(self.client(pick))

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, times=st.integers(1, 4))
    def receive(self, pick: int, times: int) -> None:
        for _ in range(times):
            self.client(pick).receive(self.world.committed)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, owned=st.booleans())
    def beat(self, pick: int, *, owned: bool) -> None:
        self.client(pick).beat(owned=owned)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks)
    def let_go(self, pick: int) -> None:
        client = self.client(pick)
        client.let_go(self.world.awaited(client))

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks)
    def turn(self, pick: int) -> None:
        self.world.turn(self.client(pick))

    @rule()
    def turn_of_all(self) -> None:
        for client in self.world.clients:
            self.world.turn(client)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, rebalances=st.integers(0, 2))
    def turn_of_others(self, pick: int, rebalances: int) -> None:
        """What one client has said is still under way while all others go on."""
        slow = self.client(pick)
        slow.beat(owned=True)
        for left in range(rebalances, -1, -1):
            for client in self.world.clients:
                if client is not slow:
                    self.world.turn(client)
            if left:
                self.target_made(turns=False)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks)
    def break_stream(self, pick: int) -> None:
        self.world.breaks(self.client(pick))

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, delivered=st.booleans(), received=st.integers(0, 2))
    def connect_again(self, pick: int, *, delivered: bool, received: int) -> None:
        """A client comes back on a new stream, and may have its first answers or not."""
        client = self.client(pick)
        if client.runs:
            self.world.breaks(client)
            client.connect()
            if delivered:
                self.world.deliver(client)
                for _ in range(received):
                    client.receive(self.world.committed)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, seen=st.booleans())
    def die(self, pick: int, *, seen: bool) -> None:
        """A program is killed. The broker sees its stream break, or not even that."""
        client = self.client(pick)
        if seen:
            self.world.breaks(client)
        self.world.gone(client)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks)
    def freeze_or_thaw(self, pick: int) -> None:
        """A program stops, and goes on as if nothing had been: it may be a zombie then."""
        self.client(pick).frozen = not self.client(pick).frozen

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, keep=st.booleans(), subscription=subscriptions)
    def leave(self, pick: int, subscription: Subscription, *, keep: bool) -> None:
        """A client leaves. A static one may come back at once under a new id."""
        client = self.client(pick)
        if not client.runs or not client.answered or client.out is None:
            return
        self.world.leave(client, keep=keep)
        if keep and client.instance_id:
            back = self.new_client(client.instance_id, client.subscription if pick % 2 else subscription)
            if pick % 3:
                self.world.deliver(back)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, subscription=subscriptions)
    def subscribe(self, pick: int, subscription: Subscription) -> None:
        if self.client(pick).runs:
            self.client(pick).subscribe(self.world.resolved(subscription))

    @rule(catalogue=catalogues)
    def change_catalogue(self, catalogue: dict[str, int]) -> None:
        self.world.change_catalogue(catalogue)

    @rule(ms=st.sampled_from([1, 20, 50, 100, 400, 1_300]), made=st.booleans())
    def pass_time(self, ms: int, *, made: bool) -> None:
        self.world.pass_time(ms)
        if made:
            self.world.target_made()

    @rule(shift=st.integers(0, 3), slow=picks, beats=st.booleans())
    def reassign(self, shift: int, slow: int, *, beats: bool) -> None:
        """A topic changes, and any target at all comes of it. One client is behind."""
        catalogue = self.world.catalogue
        self.world.change_catalogue({**catalogue, "b": catalogue.get("b", 0) % 5 + 1})
        self.world.shift = shift
        if self.world.clients:
            slow_one = self.client(slow)
            if beats:
                slow_one.beat(owned=True)
            self.target_made(turns=False)
            for client in self.world.clients:
                if client is not slow_one:
                    self.world.turn(client)

    @rule(turns=st.booleans())
    def target_made(self, *, turns: bool) -> None:
        """A target is made as soon as the group wants one."""
        if self.world.target_due is not None and not self.world.making:
            self.world.pass_time(max(0, self.world.target_due - self.world.now))
        self.world.target_made()
        if turns:
            self.turn_of_all()

    @precondition(lambda self: self.world.steps_due)
    @rule(all_of_them=st.booleans())
    def take_steps(self, *, all_of_them: bool) -> None:
        """Of a large group some members follow its target later than others."""
        self.world.take_steps(all_of_them=all_of_them)

    @precondition(lambda self: self.world.clients)
    @rule(pick=picks, which=picks, arrives=st.booleans())
    def commit(self, pick: int, which: int, *, arrives: bool) -> None:
        """A client goes on reading in a partition, and commits that."""
        client = self.client(pick)
        if client.runs and client.positions:
            partition = sorted(client.positions)[which % len(client.positions)]
            client.positions[partition] += 1
            self.world.send_commit(client, partition)
            if arrives:
                self.world.commit_arrives(self.world.sent[-1])

    @precondition(lambda self: self.world.sent)
    @rule(pick=picks)
    def commit_arrives(self, pick: int) -> None:
        self.world.commit_arrives(self.world.sent[pick % len(self.world.sent)])

    @precondition(lambda self: self.world.accepted)
    @rule(pick=picks)
    def commit_ends(self, pick: int) -> None:
        self.world.commit_ends(self.world.accepted[pick % len(self.world.accepted)])

    @precondition(lambda self: self.world.sent)
    @rule(pick=picks)
    def commit_given_up(self, pick: int) -> None:
        """A client waits for an answer no longer. The commit may arrive all the same."""
        self.world.sent[pick % len(self.world.sent)].awaited = False

    @rule(unlikely=picks)
    def restart_broker(self, unlikely: int) -> None:
        if unlikely == 0:
            self.world.restart()

    @rule(unlikely=picks)
    def calm_down(self, unlikely: int) -> None:
        if unlikely == 0:
            self.settle()

    def teardown(self) -> None:
        self.settle()

    def settle(self) -> None:
        """A quiet group whose members give signs of life becomes stable, and everything is read."""
        world = self.world
        world.shift = 0
        for client in world.clients:
            client.frozen = False
        for round_ in range(60):
            for commit in list(world.sent):
                world.commit_arrives(commit)
            for commit in list(world.accepted):
                world.commit_ends(commit)
            for client in world.clients:
                if client.out is None:
                    client.connect()
                client.beat(owned=bool(round_ % 2))
                world.turn(client)
            world.pass_time(REJOIN_MS // 5 if round_ < 20 else SESSION_MS // 10)
            world.target_made()
            world.take_steps(all_of_them=True)
            check(world)
        group = world.group
        assert not group.behind
        assert group.state is (GroupState.STABLE if group.members else GroupState.EMPTY)
        joined = [client for client in world.clients if client.epoch != JOINING]
        assert {client.member_id for client in joined} == group.members.keys()
        for client in joined:
            assert client.held == group.members[client.member_id].assigned
        assert group.owner.keys() == {
            (name, partition)
            for member in group.members.values()
            for name in member.subscription.names
            for partition in range(world.catalogue.get(name, 0))
        }


def machine(examples: int, steps: int) -> type:
    """A test case with that many sequences."""

    class Case(GroupMachine.TestCase):
        settings = settings(
            max_examples=examples,
            stateful_step_count=steps,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )

    return Case


TestGroup = pytest.mark.timeout(600)(machine(60, 40))
TestGroupAtLength = pytest.mark.soak(pytest.mark.timeout(3_600)(machine(5_000, 60)))

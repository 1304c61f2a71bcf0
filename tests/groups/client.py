"""A member's program, simulated: it follows the protocol, with whatever it knows at the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from takhin.groups.events import Event, Heartbeat, Join, Subscribe, Tell
from takhin.groups.group import JOINING, Subscription
from takhin.model import TopicPartition

SESSION_MS, REVOKE_MS = 2_000, 1_200


class Joined(NamedTuple):
    """The first answer on a stream, ahead of the first assignment."""

    epoch: int


@dataclass(eq=False)
class Client:
    """A member's program.

    held: what it reads or is letting go of. wanted: what it may hold, as far as it knows.
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
    inbox: deque[Joined | Tell | Exception | None] = field(default_factory=deque)
    answered: bool = False
    alive: bool = True
    frozen: bool = False
    ended: bool = True

    @property
    def runs(self) -> bool:
        return self.alive and not self.frozen

    def connect(self) -> None:
        """Open a stream; the first message is a join."""
        self.lose_stream()
        join = Join(
            self.member_id,
            self.subscription,
            SESSION_MS,
            REVOKE_MS,
            "uniform",
            epoch=self.epoch,
            owned=frozenset(self.held) if self.epoch != JOINING else frozenset(),
            instance_id=self.instance_id,
        )
        self.out = deque([join])

    def lose_stream(self) -> None:
        """What was under way on the stream is lost."""
        self.out, self.answered = None, False
        self.inbox.clear()

    def drop(self) -> None:
        """Let go of everything, to join from the start."""
        self.epoch = JOINING
        for own in (self.held, self.wanted, self.strayed, self.positions):
            own.clear()

    def receive(self, committed: Mapping[TopicPartition, int]) -> bool:
        """Take the next thing that came on the stream, and begin where the group has committed."""
        if not self.inbox or not self.runs:
            return False
        match self.inbox.popleft():
            case Joined(epoch):
                self.answered, self.epoch = True, epoch
            case Tell(_, epoch, partitions):
                self.epoch, self.wanted = epoch, set(partitions)
                for each in partitions - self.held:
                    self.positions[each] = committed.get(each, 0)
                self.held |= partitions
            case _:  # the stream has ended
                self.drop()
                self.lose_stream()
        return True

    def let_go(self, awaited: set[TopicPartition]) -> None:
        """Finish with what it is to let go of, once the commits there are answered, and say so."""
        gone = self.held - self.wanted - awaited
        if gone and self.runs:
            for each in gone:
                del self.positions[each]
            self.held -= gone
            self.strayed -= gone
            self.beat(owned=True)

    def beat(self, *, owned: bool) -> None:
        """Say that it lives, at the epoch that it knows of."""
        self._say(Heartbeat(self.member_id, self.epoch, frozenset(self.held) if owned else None))

    def subscribe(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self._say(Subscribe(self.member_id, subscription))

    def _say(self, event: Event) -> None:
        if self.answered and self.out is not None and self.runs:
            self.out.append(event)

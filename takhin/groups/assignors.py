"""Who of a group is to read what: pure functions of members, topics and the target before.

All are sticky and deterministic: the same input gives the same target, whatever order it comes in, and a
target that is as it should be stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from takhin.groups.events import TargetMade
from takhin.groups.group import NOTHING, Group, Partitions
from takhin.model import TopicPartition

Target = Mapping[str, Partitions]


class Reader(NamedTuple):
    """A member as assignors see it, which order members as this tuple does.

    name: its instance id, or else its member id.
    """

    name: str
    member_id: str
    topics: frozenset[str]


def assign(group: Group) -> TargetMade:
    """The target of the group as it is. It may take long for a large one, so it can run in a thread."""
    readers = [
        Reader(member.instance_id or member.member_id, member.member_id, member.subscription.names)
        for member in group.members.values()
    ]
    target = ASSIGNORS[group.assignor](readers, group.catalogue, group.target) if readers else {}
    instances = {each.member_id: each.instance_id for each in group.members.values() if each.instance_id}
    return TargetMade(group.epoch, target, instances)


def uniform(readers: Sequence[Reader], catalogue: Mapping[str, int], old: Target) -> Target:
    """Partitions in equal numbers, and then with as few moves as possible.

    No two members differ by more than one if the one with more has a partition that the other reads.
    """
    hands = _Hands(readers, catalogue, old)
    hands.deal()
    hands.level()
    return hands.target()


def range_(readers: Sequence[Reader], catalogue: Mapping[str, int], old: Target) -> Target:
    """Contiguous partitions of each topic, in the order of the members.

    Topics that have the same readers and as many partitions are divided in the same way, so that the same
    numbers come together. Who gets one more, where it does not come out even, is chosen by what stays.
    """
    target: dict[str, set[TopicPartition]] = {reader.member_id: set() for reader in readers}
    for (audience, count), topics in _companies(readers, catalogue).items():
        for member_id, numbers in _divided(audience, count, topics, old):
            target[member_id].update(TopicPartition(topic, number) for topic in topics for number in numbers)
    return {member_id: frozenset(partitions) for member_id, partitions in target.items()}


Assignor = Callable[[Sequence[Reader], Mapping[str, int], Target], Target]
ASSIGNORS: Mapping[str, Assignor] = {"uniform": uniform, "range": range_}


def _audiences(readers: Sequence[Reader], catalogue: Mapping[str, int]) -> Mapping[str, tuple[str, ...]]:
    """For each topic that exists, the ids of its readers, in order."""
    found: dict[str, list[str]] = {}
    for reader in sorted(readers, key=lambda reader: reader[:2]):
        for topic in reader.topics:
            if catalogue.get(topic, 0):
                found.setdefault(topic, []).append(reader.member_id)
    return {topic: tuple(found[topic]) for topic in sorted(found)}


def _companies(
    readers: Sequence[Reader], catalogue: Mapping[str, int]
) -> Mapping[tuple[tuple[str, ...], int], Sequence[str]]:
    """The topics that have the same readers and as many partitions, by both."""
    companies: dict[tuple[tuple[str, ...], int], list[str]] = {}
    for topic, audience in _audiences(readers, catalogue).items():
        companies.setdefault((audience, catalogue[topic]), []).append(topic)
    return companies


def _divided(
    audience: Sequence[str], count: int, topics: Sequence[str], old: Target
) -> list[tuple[str, range]]:
    """Each reader with its numbers, of so many that all topics have."""
    size, more = divmod(count, len(audience))
    had: dict[str, dict[int, int]] = {member_id: {} for member_id in audience}
    among = set(topics)
    for member_id, numbers in had.items():
        for each in old.get(member_id, NOTHING):
            if each.topic in among:
                numbers[each.partition] = numbers.get(each.partition, 0) + 1
    divided, start = [], 0
    for member_id, extra in zip(audience, _extras(list(had.values()), size, more), strict=True):
        divided.append((member_id, range(start, start + size + extra)))
        start += size + extra
    return divided


def _extras(had: Sequence[Mapping[int, int]], size: int, more: int) -> Sequence[bool]:
    """Which readers get one more than `size`: `more` of them, so that most stays; else the first ones.

    had: for each reader, in how many topics it had a number. Where a reader's numbers start depends only on
    how many before it get one more. So for each such count, the best choice among the first readers follows
    from the best ones among those without the last.
    """
    if not more or not any(had):
        return [index < more for index in range(len(had))]
    kept = [0]  # by how many get one more: the most that can stay, up to here
    choices: list[list[bool]] = []
    for index, numbers in enumerate(had):
        get, start = numbers.get, index * size
        stays = sum(get(number, 0) for number in range(start, start + size))
        best, choice = [-1] * (len(kept) + 1), [True] * (len(kept) + 1)
        for extras, so_far in enumerate(kept):
            if so_far + stays >= best[extras]:
                best[extras], choice[extras] = so_far + stays, False
            stays += get(start + size, 0)
            best[extras + 1] = so_far + stays
            stays -= get(start, 0)
            start += 1
        kept = best[: more + 1]
        choices.append(choice)
    chosen, extras = [], more
    for choice in reversed(choices):
        chosen.append(choice[extras])
        extras -= choice[extras]
    return chosen[::-1]


class _Hands:
    """What each member holds while the uniform assignor deals.

    Topics with the same readers are one audience, known by its number. A heap of each has its readers by how
    much they hold, or held once: who holds more than its entry says is put right when it comes to the top.
    """

    def __init__(self, readers: Sequence[Reader], catalogue: Mapping[str, int], old: Target) -> None:
        by_topic = _audiences(readers, catalogue)
        self._audiences = sorted(set(by_topic.values()), key=lambda audience: (len(audience), audience))
        number_of = {audience: number for number, audience in enumerate(self._audiences)}
        self._hands: dict[str, dict[int, list[TopicPartition]]] = {}
        self._loads: dict[str, int] = {}
        self._of: dict[str, list[int]] = {reader.member_id: [] for reader in readers}
        for number, audience in enumerate(self._audiences):
            for member_id in audience:
                self._of[member_id].append(number)
        numbers = {topic: number_of[audience] for topic, audience in by_topic.items()}
        dealt: set[TopicPartition] = set()
        for member_id in sorted(self._of):
            mine = set(self._of[member_id])
            kept = sorted(
                each
                for each in old.get(member_id, NOTHING)
                if each.partition < catalogue.get(each.topic, 0)
                and numbers.get(each.topic) in mine
                and each not in dealt
            )
            dealt.update(kept)
            hand: dict[int, list[TopicPartition]] = {}
            for each in kept:
                hand.setdefault(numbers[each.topic], []).append(each)
            self._hands[member_id], self._loads[member_id] = hand, len(kept)
        self._open = [
            (number, each)
            for topic, number in numbers.items()
            for each in (TopicPartition(topic, partition) for partition in range(catalogue[topic]))
            if each not in dealt
        ]
        self._open.sort()
        self._least = [[(self._loads[each], each) for each in audience] for audience in self._audiences]
        for heap in self._least:
            heapify(heap)

    def deal(self) -> None:
        """Give what nobody has, beginning with what the fewest can read, to whoever of them has the least."""
        for audience, partition in self._open:
            self._give(self._least_of(audience)[1], audience, partition)

    def level(self) -> None:
        """Move partitions from who holds most to who reads them and holds two less, while there are such.

        Each move brings the two nearer to each other, so it ends.
        """
        moved = True
        while moved:
            moved = False
            most = [(-load, member_id) for member_id, load in self._loads.items()]
            heapify(most)
            while most:
                _, giver = heappop(most)
                hand = self._hands[giver]
                least = min(
                    ((*self._least_of(each), each) for each, has in hand.items() if has), default=None
                )
                if least is None or self._loads[giver] - least[0] < 2:
                    continue
                _, taker, audience = least
                self._give(taker, audience, hand[audience].pop())
                self._loads[giver] -= 1
                for each in self._of[giver]:
                    heappush(self._least[each], (self._loads[giver], giver))
                heappush(most, (-self._loads[giver], giver))
                moved = True

    def target(self) -> Target:
        """What each member holds."""
        return {
            member_id: frozenset(each for has in self._hands[member_id].values() for each in has)
            for member_id in self._of
        }

    def _least_of(self, audience: int) -> tuple[int, str]:
        """How much the reader holds that holds least, and who it is."""
        heap = self._least[audience]
        while heap[0][0] != (load := self._loads[heap[0][1]]):
            heapreplace(heap, (load, heap[0][1]))
        return heap[0]

    def _give(self, member_id: str, audience: int, partition: TopicPartition) -> None:
        self._hands[member_id].setdefault(audience, []).append(partition)
        self._loads[member_id] += 1

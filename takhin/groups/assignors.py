"""Who of a group is to read what: pure functions, sticky and deterministic."""

from __future__ import annotations

from takhin.groups.events import TargetMade
from takhin.groups.group import Group, Partitions
from takhin.model import TopicPartition


def assign(group: Group) -> TargetMade:
    """The target of the group as it is. It may take long for a large one, so it can run in a thread."""
    target: dict[str, set[TopicPartition]] = {member_id: set() for member_id in group.members}
    names = sorted({name for member in group.members.values() for name in member.subscription.names})
    for name in names:
        readers = [each for each, member in group.members.items() if name in member.subscription.names]
        for number in range(group.catalogue.get(name, 0)):
            target[min(readers, key=lambda each: len(target[each]))].add(TopicPartition(name, number))
    made: dict[str, Partitions] = {member_id: frozenset(part) for member_id, part in target.items()}
    instances = {each.member_id: each.instance_id for each in group.members.values() if each.instance_id}
    return TargetMade(group.epoch, made, instances)

"""The commits of one group that are accepted and not yet durable, by partition, and their fences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from takhin.groups.group import Partitions
from takhin.model import TopicPartition
from takhin.storage.contract import Fence


class CommitsUnderWay:
    """Counts them by partition: none is given to its next owner while one of a former owner is under way."""

    def __init__(self) -> None:
        self._fences: dict[TopicPartition, dict[Fence, str]] = {}  # with the member whose commit it is
        self._busy: Partitions | None = None

    def __bool__(self) -> bool:
        return bool(self._fences)

    @property
    def busy(self) -> Partitions:
        """The partitions in which commits are under way."""
        if self._busy is None:
            self._busy = frozenset(self._fences)
        return self._busy

    def begin(self, member_id: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Fence]:
        """Count a commit of a member, or of nobody's. Returns a fence for each partition."""
        fences = {at: Fence() for at in partitions}
        for at, fence in fences.items():
            self._fences.setdefault(at, {})[fence] = member_id
        self._busy = None
        return fences

    def end(self, fences: Mapping[TopicPartition, Fence]) -> Partitions:
        """It is durable, or has failed. Returns the partitions in which none is under way any more."""
        for at, fence in fences.items():
            del self._fences[at][fence]
            if not self._fences[at]:
                del self._fences[at]
        self._busy = None
        return frozenset(at for at in fences if at not in self._fences)

    def release(self, member_id: str, partitions: Iterable[TopicPartition]) -> None:
        """Refuse what a member has under way in partitions that it owns no more."""
        for at in partitions:
            for fence, committer in self._fences.get(at, {}).items():
                if committer == member_id:
                    fence.close(f"member {member_id!r} does not own {at.topic}/{at.partition} any more")

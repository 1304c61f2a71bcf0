"""Which logs remember sources of which groups, and which input logs there still are. Lives on the loop.

Pure bookkeeping for both engines: a group is forgotten in those logs that know it, and where a log has no
room for another source, those whose input log is gone make room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from takhin.model import TopicPartition
from takhin.storage.contract import Topic


class SourceIndex:
    """The logs that remember sources of a group, by group.

    topics: the catalogue as it is now.
    """

    def __init__(self) -> None:
        self.topics: Mapping[str, Topic] = {}
        self._logs: dict[str, set[TopicPartition]] = {}
        self._full: set[TopicPartition] = set()

    def catalogue_changed(self, topics: Mapping[str, Topic]) -> None:
        """There are these topics from now on."""
        self.topics = topics
        self._full.clear()

    def note(self, at: TopicPartition, changes: Mapping[str, bool]) -> None:
        """Take in whether a log remembers sources of these groups now."""
        for group_id, remembers in changes.items():
            if remembers:
                self._logs.setdefault(group_id, set()).add(at)
            else:
                self._forgotten(at, group_id)

    def of(self, group_id: str) -> list[TopicPartition]:
        """The logs that remember sources of the group, as far as they are there, sorted."""
        return sorted(at for at in self._logs.get(group_id, ()) if at.topic in self.topics)

    def _forgotten(self, at: TopicPartition, group_id: str) -> None:
        logs = self._logs.get(group_id, set())
        logs.discard(at)
        if not logs:
            self._logs.pop(group_id, None)

    def drop(self, topic: str) -> None:
        """A topic was deleted, with all that its logs remember."""
        for group_id, logs in list(self._logs.items()):
            for at in [at for at in logs if at.topic == topic]:
                self._forgotten(at, group_id)

    def is_full(self, at: TopicPartition) -> bool:
        """True if a log was full, and `gone` found nothing in it, by the catalogue as it is now."""
        return at in self._full

    def gone(self, at: TopicPartition, incarnation_ids: Iterable[str]) -> list[str]:
        """Those that no log has any more. Nobody can read such a log, so no batch is made of it again.

        None, while there is a log of which nobody knows which one it is. at: the log that remembers them, and
        is full.
        """
        there = {log.incarnation_id for topic in self.topics.values() for log in topic.partitions}
        found = [] if "" in there else [each for each in incarnation_ids if each not in there]
        if not found:
            self._full.add(at)
        return found

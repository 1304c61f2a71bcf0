"""What a caller can ask of a broker: one method for each verb, and the only way in for adapters such as rpc.

Every verb comes by here with its caller at hand. Whether the call may be made at all is known before, by the
names in its request; what a verb finds by itself is limited here to what the caller may see. What changes
something is noted in the topic __activity.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from takhin.access.rules import (
    EVERYTHING,
    PRINCIPAL_BYTES_MAX,
    TO_ADMINISTER,
    Action,
    Need,
    Resource,
    Rights,
    Rule,
)
from takhin.access.tokens import Token
from takhin.broker.broker import Broker
from takhin.broker.records import PendingProduce
from takhin.broker.throttling import throttled, within_quota
from takhin.descriptions import PartitionInfo, TopicInfo
from takhin.errors import AccessUnavailableError
from takhin.group_views import DescribedGroup, DescribedMember, ListedGroup
from takhin.groups.membership import Membership
from takhin.members import ANYBODY, NOBODY, Committer, JoinGroup, Reader
from takhin.model import (
    NO_PROOF,
    BrokerHealth,
    Caller,
    Chunk,
    CommittedOffset,
    ConsumeRequest,
    OffsetAtTime,
    OffsetCommit,
    ProduceRequest,
    TopicPartition,
)
from takhin.quotas import Allowance
from takhin.topic_configs import ConfigEntry
from takhin.turns import in_turns

UNSAID = "something is wrong; callers who may administer the broker learn what"
SEEN_AT_ONCE = 100
"""Names that are judged in one turn of the loop: mostly in 0.2 µs each, but rules can make it 100 µs."""

MEMBERS_AT_ONCE = 5
"""Members, of which each has up to 20 topics."""


class Session:
    """A broker as one caller sees it. Made for each call, so it holds these two values and nothing else."""

    __slots__ = ("_broker", "caller")

    def __init__(self, broker: Broker, caller: Caller) -> None:
        self._broker = broker
        self.caller = caller

    @property
    def _rights(self) -> Rights:
        """What the caller may do now. Raises AccessUnavailableError."""
        return self._broker.access.rights_of(self.caller)

    @property
    def _reader(self) -> Reader:
        """The caller as a member of a group. What it may read is asked for again whenever that changes."""
        return ANYBODY if self._rights is EVERYTHING else Reader(self.caller.principal, self._may_read)

    def _may_read(self, topic: str) -> bool:
        try:
            return self._rights.permit(Need(Action.READ, Resource.TOPIC, topic))
        except AccessUnavailableError:  # its stream ends
            return False

    @contextmanager
    def _noted(self, action: str, **about: object) -> Iterator[None]:
        """Note in __activity what the block does for the caller, and whether it could."""
        try:
            yield
        except BaseException as error:
            self._broker.activity.note(self.caller, action, about, error)
            raise
        self._broker.activity.note(self.caller, action, about)

    # Topics

    async def create_topic(
        self, name: str, *, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> list[str]:
        """Make a topic; durable on return. Returns warnings. num_partitions: 0 and below mean 1."""
        with self._noted("topic.created", topic=name, partitions=num_partitions, configs=dict(configs)):
            return await self._broker.topics.create(
                name, num_partitions=num_partitions, replication_factor=replication_factor, configs=configs
            )

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return."""
        with self._noted("topic.deleted", topic=name):
            await self._broker.topics.delete(name)

    async def compact_topic(self, name: str) -> int:
        """Remove records that later ones with their keys supersede; returns how many. Durable on return."""
        with self._noted("topic.compacted", topic=name):
            return await self._broker.compaction.compact(name)

    async def alter_topic(
        self, name: str, *, configs: Mapping[str, str], reset: Collection[str], num_partitions: int
    ) -> list[str]:
        """Change a topic's configs and give it more partitions; durable on return. Returns warnings.

        configs: what the topic says itself from now on. reset: what follows the broker's settings again.
        num_partitions: 0 leaves them as they are.
        """
        with self._noted(
            "topic.altered", topic=name, partitions=num_partitions, set=dict(configs), reset=list(reset)
        ):
            return await self._broker.topics.alter(
                name, configs=configs, reset=reset, num_partitions=num_partitions
            )

    def describe_configs(self, name: str) -> list[ConfigEntry]:
        """Every config of a topic, with its value in force and who says so."""
        return self._broker.topics.configs(name)

    def count_partitions(self, topic: str) -> int:
        """How many partitions a topic has now; 0 if there is no such topic."""
        return self._broker.topics.count_partitions(topic)

    async def list_topics(self) -> Sequence[str]:
        """The names of all topics that the caller may see, sorted.

        The same object until the catalogue changes, for one who may see all.
        """
        names, rights = self._broker.topics.names(), self._rights
        if rights is EVERYTHING:
            return names
        return [
            name async for name in in_turns(names, at_once=SEEN_AT_ONCE) if rights.see(Resource.TOPIC, name)
        ]

    async def describe_topic(self, name: str) -> TopicInfo:
        """A topic's config, and its partitions as they are now."""
        return await self._broker.topics.describe(name)

    async def describe_topics(
        self, names: Iterable[str], *, without_partitions: bool = False, without_sizes: bool = False
    ) -> AsyncIterator[TopicInfo]:
        """Those of `names` that exist and that the caller may see, each once."""
        rights = self._rights
        found = in_turns(names, at_once=SEEN_AT_ONCE)
        seen = [name async for name in found if rights.see(Resource.TOPIC, name)]
        async for info in self._broker.topics.describe_known(
            seen, without_partitions=without_partitions, without_sizes=without_sizes
        ):
            yield info

    def describe_partition(self, topic: str, partition: int) -> PartitionInfo:
        """The ends of one partition now."""
        return self._broker.topics.describe_partition(topic, partition)

    # Records

    def check_counts(self, records: int, headers: Iterable[int]) -> None:
        """Refuse more records or headers than a batch may have. headers: how many each record has.

        `produce` refuses them as well. An adapter that has to convert records calls this before, so that a
        request that is too large costs nothing.
        """
        self._broker.records.check_counts(records, headers)

    def produce(self, request: ProduceRequest) -> PendingProduce:
        """Queue the request's batch at once; `answer` of what is returned waits until it is durable.

        Raises a RefusedError or an UnavailableError for what cannot be queued.
        """
        return self._broker.records.produce(request)

    async def submit(self, request: ProduceRequest) -> PendingProduce:
        """Like `produce`, once the queue has room. Raises OverloadedError, StorageFullError, too."""
        return await self._broker.records.submit(request)

    def take_produce(self, records: int, size_bytes: int) -> None:
        """Count a produce request against the caller's quotas. Raises OverloadedError if it is over them."""
        if (allowance := self._allowance()) is not None:
            allowance.produce(records=records, size_bytes=size_bytes, now=time.monotonic())

    def consume(self, request: ConsumeRequest) -> AsyncGenerator[Chunk, None]:
        """The log's records, then new ones as they arrive, within the caller's quotas.

        consumption.py says what it yields and raises.
        """
        records, settings = self._broker.records, self._broker.settings.consume
        if (allowance := self._allowance()) is None:
            return records.consume(request)
        return throttled(records.consume(within_quota(request, allowance, settings)), allowance, settings)

    def count_consumed(self, topic: str, *, records: int, size_bytes: int) -> None:
        """Count what a consume call is sent. size_bytes: of the response."""
        self._broker.records.count_consumed(topic, records=records, size_bytes=size_bytes)

    async def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Remove the records below an offset (-1: all up to the end as of now); durable on return.

        Returns where the log begins now.
        """
        with self._noted("records.deleted", topic=topic, partition=partition, before_offset=before_offset):
            return await self._broker.ends.delete_records(topic, partition, before_offset)

    async def offsets_for_times(
        self, queries: Sequence[tuple[TopicPartition, int]]
    ) -> list[tuple[TopicPartition, OffsetAtTime]]:
        """For each (partition, time in ms) the first record at or after the time."""
        return await self._broker.ends.offsets_for_times(queries)

    # Consumer groups

    async def join_group(self, request: JoinGroup) -> Membership:
        """Become a member of a group, or come back to it. coordinator.py says what it raises."""
        with self._noted("group.joined", group=request.group_id, client_id=request.client_id):
            return await self._broker.coordinator.join(request, self.caller.address, self._reader)

    async def commit_offsets(
        self,
        group_id: str,
        offsets: Collection[OffsetCommit],
        committer: Committer = NOBODY,
        *,
        size_bytes: int = 0,
    ) -> None:
        """Remember (partition, next offset to read, metadata) for a group; durable on return.

        committer: the member that commits. size_bytes: what the offsets take in memory meanwhile.
        """
        await self._broker.group_offsets.commit(group_id, offsets, committer, size_bytes)

    async def committed_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, CommittedOffset | None]]:
        """What the group committed in `partitions` (None: nothing); without any, wherever the caller sees."""
        found = await self._broker.group_offsets.committed(group_id, partitions)
        rights = self._rights
        if partitions or rights is EVERYTHING:
            return found
        return [
            each
            async for each in in_turns(found, at_once=SEEN_AT_ONCE)
            if rights.see(Resource.TOPIC, each[0].topic)
        ]

    async def list_groups(self) -> list[ListedGroup]:
        """Every group that has committed an offset or has members and that the caller may see, sorted.

        The lag is that of the topics that the caller may see.
        """
        rights = self._rights
        if rights is EVERYTHING:
            return await self._broker.group_views.list_groups()
        listed = await self._broker.group_views.list_groups(lambda topic: rights.see(Resource.TOPIC, topic))
        return [
            group
            async for group in in_turns(listed, at_once=SEEN_AT_ONCE)
            if rights.see(Resource.GROUP, group.group_id)
        ]

    async def describe_group(self, group_id: str) -> DescribedGroup:
        """A group with its members and what it has committed, as far as the caller may see the topics.

        Raises UnknownGroupError.
        """
        group = await self._broker.group_views.describe_group(group_id)
        rights = self._rights
        return group if rights is EVERYTHING else await seen(group, rights)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that the group committed; durable. Raises UnknownGroupError, GroupNotEmptyError."""
        with self._noted("group.deleted", group=group_id):
            await self._broker.group_offsets.delete_group(group_id)

    async def delete_offsets(self, group_id: str, topics: Collection[str]) -> None:
        """Drop what the group committed in some topics. Raises UnknownGroupError, GroupNotEmptyError."""
        with self._noted("offsets.deleted", group=group_id, topics=list(topics)):
            await self._broker.group_offsets.delete_offsets(group_id, topics)

    # The broker itself

    def _allowance(self) -> Allowance | None:
        """What the caller's records are counted with; None: they are not limited."""
        quotas = self._broker.quotas
        return None if quotas.off else quotas.of(self.caller, time.monotonic())

    def health(self) -> BrokerHealth:
        """The broker's version, its uptime, and what is wrong now.

        That names topics and folders. So others than administrators learn only that something is wrong.
        """
        health = self._broker.health()
        if health.troubles and not self._may_administer():
            return health._replace(troubles=[UNSAID])
        return health

    def _may_administer(self) -> bool:
        if self._broker.access.enabled and self.caller.proof == NO_PROOF:
            return False
        try:
            return self._rights.permit(TO_ADMINISTER)
        except AccessUnavailableError:
            return False

    # Tokens and rules

    async def create_token(self, principal: str, *, expires_at: int, note: str) -> tuple[str, Token]:
        """A new token, and what is kept of it; durable on return. expires_at: ms since 1970; 0: never."""
        with self._noted("token.created", of=principal[:PRINCIPAL_BYTES_MAX]):
            return await self._broker.access.create_token(principal, expires_at=expires_at, note=note)

    def list_tokens(self, principal: str) -> Sequence[Token]:
        """The tokens of a principal, or with "" all of them."""
        return self._broker.access.list_tokens(principal)

    async def revoke_tokens(self, id_or_principal: str) -> Sequence[Token]:
        """Forget one token, or all of a principal; those that were. Durable and in force on return."""
        with self._noted("token.revoked", of=id_or_principal[:PRINCIPAL_BYTES_MAX]):
            return await self._broker.access.revoke_tokens(id_or_principal)

    async def change_rules(self, put: Sequence[Rule], drop: Sequence[Rule]) -> int:
        """Put rules, each in place of one about the same, and drop others; how many were dropped."""
        with self._noted("rules.changed", put=list(map(str, put)), dropped=list(map(str, drop))):
            return await self._broker.access.change_rules(put, drop)

    def list_rules(self, principal: str) -> Sequence[Rule]:
        """The rules about a principal, or with "" all of them."""
        return self._broker.access.list_rules(principal)


async def seen(group: DescribedGroup, rights: Rights) -> DescribedGroup:
    """The group without the topics that one may not see."""
    return replace(
        group,
        offsets=[
            of
            async for of in in_turns(group.offsets, at_once=SEEN_AT_ONCE)
            if rights.see(Resource.TOPIC, of.topic)
        ],
        members=[
            await _member_seen(member, rights)
            async for member in in_turns(group.members, at_once=MEMBERS_AT_ONCE)
        ],
    )


async def _member_seen(member: DescribedMember, rights: Rights) -> DescribedMember:
    return replace(
        member,
        topics=[name for name in member.topics if rights.see(Resource.TOPIC, name)],
        assigned=[
            each
            async for each in in_turns(member.assigned, at_once=SEEN_AT_ONCE)
            if rights.see(Resource.TOPIC, each[0].topic)
        ],
    )

"""`Admin`: topics, offsets, consumer groups and the broker's health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Concatenate, ParamSpec, TypeVar

import grpc

from takhin.access.rules import Rule
from takhin.client.base import Client
from takhin.client.clock import monotonic
from takhin.client.errors import NoAnswerError
from takhin.client.model import (
    CommittedOffset,
    GroupDescription,
    GroupListing,
    GroupMember,
    Health,
    PartitionOffsets,
    TokenInfo,
    TopicConfigEntry,
    TopicDescription,
    ms_of,
)
from takhin.client.retry import Retry, retried
from takhin.client.streams import Subscription
from takhin.client.tls import Tls, TlsFiles
from takhin.errors import TakhinError, TopicExistsError, UnknownGroupError, UnknownTopicError
from takhin.limits import check_range
from takhin.model import OffsetAtTime, TopicPartition

P = ParamSpec("P")
T = TypeVar("T")

UP_TO_THE_END = -1
NO_TOPIC = "-"
"""What a member subscribes to that is to read nothing: it has to name some topic."""


class Admin(Client):
    """Manages one broker. For one event loop.

    timeout_ms: how long each method may take, with all its attempts; then it raises an UnavailableError.
    Every method may raise that. What else it raises is a RefusedError, named where it matters.
    """

    _kind = "Admin"

    def __init__(
        self,
        server: str,
        *,
        timeout_ms: int = 30_000,
        tls: Tls | TlsFiles | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        check_range("timeout_ms", timeout_ms, 1)
        super().__init__(server, tls, token, retry)
        self._timeout_s = timeout_ms / 1_000

    async def create_topic(
        self, name: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> list[str]:
        """Make a topic; durable on return. Returns warnings, a sentence each.

        configs: those that it says itself, by Kafka's names.
        Raises TopicExistsError, unless an attempt of this call went unanswered and may have made it; then
        nobody knows of what that attempt warned.
        """
        check_range("partitions", partitions, 1)
        asked = name, partitions, dict(configs or {})
        return await self._change(TopicExistsError, self._calls.create_topic, *asked) or []

    async def alter_topic(
        self,
        name: str,
        *,
        configs: Mapping[str, str] | None = None,
        reset: Iterable[str] = (),
        partitions: int | None = None,
    ) -> list[str]:
        """Change a topic, all of it or nothing; durable on return. Returns warnings, a sentence each.

        configs: what the topic says itself from now on. reset: what follows the broker's settings again.
        partitions: their number, which only grows. Clients use new ones within seconds.
        Raises UnknownTopicError, InvalidConfigError, InvalidArgumentError for fewer partitions.
        """
        if partitions is not None:
            check_range("partitions", partitions, 1)
        changes = dict(configs or {}), list(reset), partitions or 0
        return await self._call(self._calls.alter_topic, name, *changes)

    async def describe_configs(self, name: str) -> list[TopicConfigEntry]:
        """Every config of a topic: its value in force, and who says so.

        Raises UnknownTopicError, and PartitionUnavailableError where nobody knows them: partition 0 has them.
        """
        return await self._call(self._calls.describe_topic_configs, name)

    async def list_topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return await self._call(self._calls.list_topics)

    async def describe_topic(self, name: str) -> TopicDescription:
        """A topic's partitions and configs. Raises UnknownTopicError."""
        return await self._call(self._calls.get_topic, name)

    async def describe_topics(self, names: Iterable[str]) -> list[TopicDescription]:
        """Descriptions of those of `names` that exist."""
        return await self._call(self._calls.describe_topics, list(names))

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return.

        Raises UnknownTopicError, unless an attempt of this call went unanswered and may have removed it.
        """
        await self._change(UnknownTopicError, self._calls.delete_topic, name)

    async def compact_topic(self, name: str) -> int:
        """Remove records that a later one with the same key supersedes; returns how many.

        Durable on return. It may take longer than timeout_ms: the broker then goes on, and a later call waits
        for it. Raises UnknownTopicError, and InvalidArgumentError if the topic's cleanup.policy is without
        compact.
        """
        return await self._call(self._calls.compact_topic, name)

    async def partition_offsets(self, topic: str, partition: int) -> PartitionOffsets:
        """Both ends of a log."""
        return await self._call(self._calls.get_partition_offsets, TopicPartition(topic, partition))

    async def offset_for_time(self, topic: str, partition: int, time: datetime | int) -> int:
        """The offset of the first record at or after a time (aware, or ms since 1970); the end if none is."""
        found = await self.offsets_for_times({(topic, partition): time})
        return found[TopicPartition(topic, partition)].offset

    async def offsets_for_times(
        self, times: Mapping[tuple[str, int], datetime | int]
    ) -> dict[TopicPartition, OffsetAtTime]:
        """For each partition the first record at or after a time (aware, or ms since 1970).

        Where there is none the offset is the end of the log and the timestamp -1.
        """
        asked = {TopicPartition(*at): ms_of(time, up=True) for at, time in times.items()}
        return await self._call(self._calls.get_offsets_for_times, asked)

    async def delete_records(self, topic: str, partition: int, *, before_offset: int = UP_TO_THE_END) -> int:
        """Remove the records below an offset, or all up to the end as of now; durable on return.

        Returns where the log begins now. Raises OffsetOutOfRangeError for an offset behind the end.
        """
        if before_offset == UP_TO_THE_END:  # asked once: an attempt that is repeated removes nothing newer
            before_offset = (await self.partition_offsets(topic, partition)).end_offset
        at = TopicPartition(topic, partition)
        return await self._call(self._calls.delete_records, at, before_offset)

    async def list_groups(self) -> list[GroupListing]:
        """Every consumer group, sorted by id."""
        return await self._call(self._calls.list_consumer_groups)

    async def describe_group(self, group_id: str) -> GroupDescription:
        """A group with its members and all that it committed. Raises UnknownGroupError."""
        return await self._call(self._calls.describe_consumer_group, group_id)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that a group committed; durable on return.

        Raises GroupNotEmptyError, and UnknownGroupError as `delete_topic` does for topics.
        """
        await self._change(UnknownGroupError, self._calls.delete_consumer_group, group_id)

    async def delete_offsets(self, group_id: str, topics: Iterable[str]) -> None:
        """Drop what a group committed in these topics; durable on return.

        Raises GroupNotEmptyError if a member subscribes to one of them, UnknownGroupError.
        """
        await self._change(UnknownGroupError, self._calls.delete_offsets, group_id, list(topics))

    async def end_members(self, group_id: str) -> int:
        """End the membership of all members of a group, as if they had left; returns how many there were.

        Their programs are fenced: they drop what they hold, commit nothing of it, and those that still run
        join again after a tenth of a second. Raises UnknownGroupError.
        """
        members = (await self.describe_group(group_id)).members
        await asyncio.gather(*(self._call(self._end, group_id, member) for member in members))
        return len(members)

    async def _end(self, deadline: float, group_id: str, member: GroupMember) -> None:
        """Join in the place of a member, and leave."""
        subscription = Subscription(
            group_id=group_id, topics=tuple(member.topics) or (NO_TOPIC,), instance_id=member.instance_id
        )
        async with self._calls.join_consumer_group(deadline) as stream:
            await stream.join(subscription, member.member_id, 0, ())
            await stream.read(silence_s_max=deadline - monotonic())
            await stream.leave(keep_for_restart=False)
            while await stream.read(silence_s_max=deadline - monotonic()) is not None:
                pass

    async def committed_offsets(
        self, group_id: str, partitions: Iterable[tuple[str, int]] = ()
    ) -> dict[TopicPartition, CommittedOffset]:
        """What a group committed, in these partitions or in all; where it committed nothing is left out."""
        asked = [TopicPartition(*at) for at in partitions]
        return await self._call(self._calls.get_committed_offsets, group_id, asked)

    async def commit_offsets(
        self, group_id: str, offsets: Mapping[tuple[str, int], int | CommittedOffset]
    ) -> None:
        """Set what a group committed, the next offset to read for each partition; durable on return.

        Raises GroupNotEmptyError for a group with members.
        """
        await self._call(self._calls.commit_offset, group_id, dict(offsets))

    async def create_token(
        self, principal: str, *, expires_at: datetime | int | None = None, note: str = ""
    ) -> tuple[str, TokenInfo]:
        """A new token, which is shown only now, and what the broker keeps of it; durable on return.

        expires_at: aware, or ms since 1970; None: never. It is asked for once: an attempt without an answer
        may have made a token, which `list_tokens` shows.
        """
        until = 0 if expires_at is None else ms_of(expires_at)
        deadline = monotonic() + self._timeout_s
        return await self._calls.create_token(deadline, principal, until, note)

    async def list_tokens(self, principal: str = "") -> list[TokenInfo]:
        """The tokens of a principal, or of all."""
        return await self._call(self._calls.list_tokens, principal)

    async def revoke_tokens(self, id_or_principal: str) -> list[TokenInfo]:
        """Forget one token by its id, else all of a principal; durable and in force on return.

        Returns those that were; none if there was none, or if an attempt went unanswered and forgot them.
        """
        return await self._call(self._calls.revoke_tokens, id_or_principal)

    async def change_access(self, put: Iterable[Rule] = (), drop: Iterable[Rule] = ()) -> int:
        """Put rules, each in place of one about the same, and drop others; returns how many were dropped.

        All of it or nothing; durable and in force on return. Raises InvalidArgumentError.
        """
        return await self._call(self._calls.change_access, list(put), list(drop))

    async def list_access(self, principal: str = "") -> Sequence[Rule]:
        """The rules about a principal, or all of them."""
        return await self._call(self._calls.list_access, principal)

    async def health(self) -> Health:
        """The state of the broker."""
        return await self._call(self._calls.health_check)

    async def _call(
        self, rpc: Callable[Concatenate[float, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The answer of `rpc(deadline, …)`, with retries."""
        deadline = monotonic() + self._timeout_s
        return await retried(self._retry, deadline, rpc, *args, **kwargs)

    async def _change(
        self,
        done: type[TakhinError],
        rpc: Callable[Concatenate[float, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Like `_call`, for a change. done: the error that says that the change was made before.

        After an attempt without an answer, that is taken for success: the attempt may have made it. The
        result is None then.
        """
        maybe_done = False

        async def attempt(deadline: float) -> T | None:
            nonlocal maybe_done
            try:
                return await rpc(deadline, *args, **kwargs)
            except NoAnswerError:
                maybe_done = True
                raise
            except done:
                if not maybe_done:
                    raise
                return None

        return await self._call(attempt)

"""The one table of what each method needs: method → rights, by what its request names.

A test holds it against the interface: a method without a row is refused at run time, too. Methods that list
things have a weak need here; what they list is only what the caller may see, by `takhin.broker.session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from takhin.access.rules import TO_ADMINISTER, Action, Need, Resource
from takhin.v1 import takhin_pb2 as pb

Needs = Callable[[Any], Iterable[Need]]
"""What a request needs."""

TOPIC, GROUP = Resource.TOPIC, Resource.GROUP

SERVICE = f"/{pb.DESCRIPTOR.services_by_name['TakhinService'].full_name}/"
HEALTH = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
REFLECTION = "/grpc.reflection."
"""Begins the methods of every version of it."""
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
OPEN = {
    "health": (HEALTH, f"{SERVICE}HealthCheck"),
    "reflection": (REFLECTION,),
}
"""What methods begin with that the setting access.open may open, by its words."""

SOMETHING = (Need(),)
"""Any right at all."""
SOME_TOPIC, SOME_GROUP = (Need(None, TOPIC),), (Need(None, GROUP),)


def _fixed(needs: Iterable[Need]) -> Needs:
    return lambda _request: needs


def _topic(action: Action | None, field: str = "name") -> Needs:
    return lambda request: (Need(action, TOPIC, getattr(request, field)),)


def _group(action: Action | None) -> Needs:
    return lambda request: (Need(action, GROUP, request.group_id),)


def _produce(request: pb.ProduceMessageRequest) -> Iterable[Need]:
    """To write; with a source, also to be in its group and to read its topic, of which the answer tells."""
    if not request.HasField("source"):
        return (Need(Action.WRITE, TOPIC, request.topic),)
    return (
        Need(Action.WRITE, TOPIC, request.topic),
        Need(Action.GROUP, GROUP, request.source.group_id),
        Need(Action.READ, TOPIC, request.source.topic),
    )


def _of_topics(action: Action | None, elements: Iterable[Any]) -> Iterator[Need]:
    """The right on the topic of each element; mostly one after the other is about the same."""
    last = None
    for element in elements:
        if (topic := element.topic) != last:
            last = topic
            yield Need(action, TOPIC, topic)


def _commit(request: pb.CommitOffsetRequest) -> Iterator[Need]:
    yield Need(Action.GROUP, GROUP, request.group_id)
    yield from _of_topics(Action.READ, request.offsets)


def _committed(request: pb.GetCommittedOffsetsRequest) -> Iterator[Need]:
    yield Need(None, GROUP, request.group_id)
    yield from _of_topics(None, request.partitions)


def _times(request: pb.GetOffsetsForTimesRequest) -> Iterator[Need]:
    yield from SOME_TOPIC
    yield from _of_topics(Action.READ, request.queries)


def _member(request: pb.MemberRequest) -> Iterator[Need]:
    """To be in the group, and to read the topics that are named. A pattern finds those that may be read."""
    kind = request.WhichOneof("request")
    if kind == "join":
        yield Need(Action.GROUP, GROUP, request.join.group_id)
    if kind in ("join", "subscribe"):
        subscription = getattr(request, kind)
        if subscription.topic_pattern:
            yield Need(Action.READ, TOPIC)
        yield from (Need(Action.READ, TOPIC, name) for name in subscription.topics)


METHODS: Mapping[str, Needs] = {
    "CreateTopic": _topic(Action.ADMIN),
    "DeleteTopic": _topic(Action.ADMIN),
    "ListTopics": _fixed(SOME_TOPIC),
    "GetTopic": _topic(None),
    "DescribeTopics": _fixed(SOME_TOPIC),
    "AlterTopic": _topic(Action.ADMIN),
    "DescribeTopicConfigs": _topic(None),
    "ProduceMessage": _produce,
    "ProduceMessageStream": _produce,
    "ConsumeMessages": _topic(Action.READ, "topic"),
    "GetPartitionOffsets": _topic(None, "topic"),
    "GetOffsetsForTimes": _times,
    "DeleteRecords": _topic(Action.ADMIN, "topic"),
    "CompactTopic": _topic(Action.ADMIN),
    "JoinConsumerGroup": _member,
    "CommitOffset": _commit,
    "GetCommittedOffsets": _committed,
    "ListConsumerGroups": _fixed(SOME_GROUP),
    "DescribeConsumerGroup": _group(None),
    "DeleteConsumerGroup": _group(Action.ADMIN),
    "DeleteOffsets": _group(Action.ADMIN),
    "CreateToken": _fixed((TO_ADMINISTER,)),
    "ListTokens": _fixed((TO_ADMINISTER,)),
    "RevokeTokens": _fixed((TO_ADMINISTER,)),
    "ChangeAccess": _fixed((TO_ADMINISTER,)),
    "ListAccess": _fixed((TO_ADMINISTER,)),
    "HealthCheck": _fixed(SOMETHING),
}
"""The methods of TakhinService."""

TABLE: Mapping[str, Needs] = {
    **{f"{SERVICE}{name}": needs for name, needs in METHODS.items()},
    **{
        f"{HEALTH}{method.name}": _fixed(SOMETHING)
        for method in health_pb2.DESCRIPTOR.services_by_name["Health"].methods
    },
    **{f"/{service}/ServerReflectionInfo": _fixed(SOMETHING) for service in REFLECTIONS},
}
"""The same by whole method, with those of the other services."""

BEFORE_READING: Mapping[str, tuple[Need, ...]] = {
    f"{SERVICE}ProduceMessageStream": (Need(Action.WRITE, TOPIC),),
}
"""What is needed before any message of the method is there, where each message has needs of its own that only
that message is refused for."""

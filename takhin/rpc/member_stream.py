"""The streams of JoinConsumerGroup: a task of each listens to the member, the call itself tells it things.

Whether a stream has ended in order or has broken matters: a member whose stream broke may come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from takhin.broker.session import Session
from takhin.errors import InvalidArgumentError
from takhin.groups.membership import Membership
from takhin.members import JoinGroup, Leave
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert_groups as convert

BREAK_SECONDS = 0.05
"""How long to wait, after the last request of a stream, for the news that the stream is broken. To the server
the requests of a broken or cancelled one end like those of one that its client has ended in order; gRPC
cancels the call a moment later, 0.1 ms on a quiet machine."""


async def member_responses(
    session: Session, requests: AsyncIterator[pb.MemberRequest]
) -> AsyncGenerator[pb.MemberResponse, None]:
    """The responses of one stream. It ends in order when the member has left."""
    join = await convert.member_request(await anext(requests))
    if not isinstance(join, JoinGroup):
        raise InvalidArgumentError("the first request of a stream has to be a join", field="request")
    membership = await session.join_group(join)
    listener = asyncio.create_task(_listen(membership, requests))
    try:
        while (response := await membership.next()) is not None:
            yield await convert.member_response(response)
    finally:
        membership.broken()  # which means nothing for one that has left
        listener.cancel()
        await asyncio.wait({listener})


async def _listen(membership: Membership, requests: AsyncIterator[pb.MemberRequest]) -> None:
    """Take in what the member says. With its stream this task is cancelled, before it comes to the end."""
    try:
        async for request in requests:
            await membership.hear(await convert.member_request(request))
        await asyncio.sleep(BREAK_SECONDS)
        await membership.hear(Leave())
    except Exception as error:  # noqa: BLE001  the call itself raises it: see `Membership.next`
        membership.fail(error)

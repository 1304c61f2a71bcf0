"""A member's side of JoinConsumerGroup: stays in the group over broken streams, and joins again when fenced.

Knows the stream and nothing of records: what the member may hold goes to its `Holder`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from typing import Protocol
from uuid import uuid4

from takhin.client.calls import Calls, MemberAt
from takhin.client.clock import monotonic
from takhin.client.consuming.options import GroupOptions
from takhin.client.errors import NoAnswerError
from takhin.client.retry import pause
from takhin.client.streams import Alive, Granted, Joined, MemberStream
from takhin.errors import FencedMemberError, InstanceInUseError, UnavailableError, UnknownMemberError
from takhin.model import TopicPartition

ANSWER_S_MAX = 10.0
"""How long a join may go unanswered."""
SILENT_BEATS_MAX = 2.5
"""After so many heartbeats without an answer the stream counts as broken. Coming back costs nothing."""
SILENCE_S_MIN = 2.0
STANDSTILL_S_MIN = 0.5
"""From this on a member that was late is told why it was fenced. The shortest session is 1 s."""
FENCED_S = 0.1
"""How long a fenced member waits before it joins again: whoever ended it may want the group to be empty."""
INSTANCE_S_MAX = 15.0
"""How long a static member waits for a former process of its name, which may just have died."""

logger = logging.getLogger("takhin.client")


class Holder(Protocol):
    """Who reads the partitions that the member may hold."""

    def held(self) -> Collection[TopicPartition]:
        """What it holds now."""

    def granted(self, partitions: frozenset[TopicPartition]) -> None:
        """Take note of all that it may hold from now on. What is missing is to be given up."""

    def lost(self) -> None:
        """Drop everything at once: it may belong to others already."""


class Membership:
    """Life: `run` until `leave`. It may be run again, and then comes back as the member it was.

    epoch: 0 while it is no member. generation: how often it has ceased to be one.
    stream: the number of its stream that the broker has answered; 0 while there is none.
    standstill: why it has ceased to be a member, if its own program is to blame; to be added to a sentence.
    """

    def __init__(self, calls: Calls, options: GroupOptions, holder: Holder) -> None:
        self.member_id = uuid4().hex  # its own, so that a join whose answer was lost makes no second member
        self.epoch = 0
        self.generation = 0
        self.stream = 0
        self.standstill = ""
        self._streams = count(1)
        self._calls = calls
        self._subscription = options.subscription
        self._retry = options.retry
        self._outage_s_max = options.outage_s_max
        self._holder = holder
        self._news = asyncio.Event()  # something is to be said before the next heartbeat is due
        self._tells_owned = False
        self._leaves = False
        self._keeps_for_restart = False
        self._failures = 0
        self._gives_up_at = 0.0
        self._late_s = 0.0  # by how much it could not say something in time, on its latest stream

    @property
    def at(self) -> MemberAt:
        """The member as a commit names it."""
        return MemberAt(self.member_id, self.epoch)

    def tell_owned(self) -> None:
        """Tell the broker soon what is held now."""
        self._tells_owned = True
        self._news.set()

    def leave(self, *, keep_for_restart: bool) -> None:
        """Leave the group soon, which ends `run`."""
        self._leaves, self._keeps_for_restart = True, keep_for_restart
        self._news.set()

    async def run(self) -> None:
        """Be a member. Raises what keeps it from being one.

        These are GroupFullError, InstanceInUseError, InvalidArgumentError, CallFailedError, and an
        UnavailableError after an outage.
        """
        self._failures, self._gives_up_at = 0, monotonic() + self._outage_s_max
        while not (self._leaves and self.epoch == 0):
            try:
                await self._attend()
            except (FencedMemberError, UnknownMemberError) as error:
                self.standstill = self._standstill()
                if self.epoch and not self._leaves:
                    logger.warning(
                        "a member of group %r joins again: %s%s",
                        self._subscription.group_id,
                        error,
                        self.standstill,
                    )
                again = self._lost(error)
                await asyncio.sleep(FENCED_S)
            except InstanceInUseError as error:
                if not await self._pause(NoAnswerError(str(error)), INSTANCE_S_MAX):
                    raise
                continue
            except UnavailableError as error:
                again = error
            else:
                return
            if not await self._pause(again, self._outage_s_max):
                raise again

    async def _pause(self, error: UnavailableError, seconds_max: float) -> bool:
        """Wait before the next attempt. False if there is none: the first one failed so long ago."""
        if not self._failures:
            self._gives_up_at = monotonic() + min(seconds_max, self._outage_s_max)
        self._failures += 1
        return await pause(self._retry, self._failures, error, self._gives_up_at)

    def _lost(self, error: Exception) -> UnavailableError:
        """The member is none any more."""
        self.epoch = 0
        self.generation += 1
        self._tells_owned = False
        self._holder.lost()
        return NoAnswerError(str(error))

    def _standstill(self) -> str:
        if self._late_s < STANDSTILL_S_MIN:
            return ""
        return (
            f" (the event loop stood still for {self._late_s:.1f} s: the process was stopped, or the program "
            "blocked the loop, as by a slow record; run such work by asyncio.to_thread, or use "
            "takhin.client.sync)"
        )

    async def _attend(self) -> None:
        """One stream. Returns when the member has left."""
        if not self._failures:
            self._gives_up_at = monotonic() + self._outage_s_max
        async with self._calls.join_consumer_group(self._gives_up_at) as stream:
            owned = self._holder.held() if self.epoch else ()
            await stream.join(self._subscription, self.member_id, self.epoch, owned)
            joined = await stream.read(silence_s_max=ANSWER_S_MAX)
            if not isinstance(joined, Joined):
                raise NoAnswerError(f"{self._calls.server} did not answer a join")
            self.member_id, self.epoch, self._failures = joined.member_id, joined.epoch, 0
            self.stream = next(self._streams)
            self._late_s = 0.0
            beating = asyncio.get_running_loop().create_task(self._beat(stream, joined.heartbeat_s))
            try:
                await self._listen(stream, max(SILENT_BEATS_MAX * joined.heartbeat_s, SILENCE_S_MIN))
            finally:
                self.stream = 0
                beating.cancel()
                await asyncio.wait({beating})
                if not beating.cancelled():
                    beating.result()

    async def _listen(self, stream: MemberStream, silence_s_max: float) -> None:
        while (said := await stream.read(silence_s_max=silence_s_max)) is not None:
            match said:
                case Granted():
                    self.epoch = said.epoch
                    self._holder.granted(said.partitions)
                case Alive():
                    self.epoch = max(self.epoch, said.epoch)
        if not self._leaves:
            raise NoAnswerError(f"{self._calls.server} ended the stream of a member")
        self.epoch = 0

    async def _beat(self, stream: MemberStream, every_s: float) -> None:
        """Say what is to be said, and something now and then, until the member leaves or the stream ends."""
        with suppress(NoAnswerError):  # whoever reads is told why
            while not self._leaves:
                due = monotonic() + every_s
                try:
                    async with asyncio.timeout(every_s):
                        await self._news.wait()
                except TimeoutError:
                    pass
                finally:  # also if the stream has ended meanwhile
                    self._late_s = max(self._late_s, monotonic() - due)
                self._news.clear()
                owned = self._holder.held() if self._tells_owned else None
                self._tells_owned = False
                if not self._leaves:
                    await stream.heartbeat(self.epoch, owned)
            await stream.leave(keep_for_restart=self._keeps_for_restart)

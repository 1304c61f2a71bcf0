"""The topic __activity: who changed what, and who was denied. The broker writes it; clients only read it.

Whoever notes something never waits: entries are queued, and a task of its own writes them. What does not fit
into the queue is counted, and the next entry says how many were lost. Denied calls are many when somebody
tries, so are changes that fail, and whoever may join a group may do so over and over: the first of a kind is
an entry, the rest of its minute is one more with a count.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import structlog

from takhin.access.rules import Need
from takhin.broker.repeats import Kind, Repeats
from takhin.clock import Clock
from takhin.errors import TakhinError
from takhin.limits import ACTIVITY_TOPIC
from takhin.model import Batch, Caller, TopicConfig, TopicSpec
from takhin.quotas import address_of
from takhin.settings import Settings
from takhin.sizes import size_bytes
from takhin.storage.contract import Engine
from takhin.topic_configs import parse

logger = structlog.get_logger()

BATCH_ENTRIES_MAX = 500
"""Entries of one append."""
STUMBLE_SECONDS = 1.0
"""The pause after an append that failed, before the next attempt."""
REPEATS_SECONDS = 60.0

CHARS_MAX, ITEMS_MAX = 256, 50
"""Characters of a text, and items of a list, that an entry has of what a caller has given."""
JOINED = "group.joined"
NAMES = ("topic", "group")
"""What tells failures, and joins, of one action and one caller apart."""
OUTSIDE = Caller("", "data folder")

Entry = dict[str, Any]


class Activity:
    """Writes the topic. Life: `start` when the engine is open, `stop` before it closes."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        chosen = settings.activity.enabled
        self.enabled = settings.access.enabled if chosen == "auto" else chosen == "true"
        self._engine = engine
        self._all_settings = settings
        self._settings = settings.activity
        self._clock = clock
        self._queue: deque[Entry] = deque()
        self._lost = 0
        self._news = asyncio.Event()
        self._denials = Repeats(self._settings.denials_per_minute_max)
        self._failures = Repeats(self._settings.denials_per_minute_max)
        self._joins = Repeats(self._settings.denials_per_minute_max)
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Write from now on. A topic that cannot be made now is made later."""
        if not self.enabled:
            return
        try:
            await self._make_topic()
        except (TakhinError, OSError) as error:
            logger.warning("activity_not_written", reason=str(error))
        self._writing = asyncio.create_task(self._write())

    async def _make_topic(self) -> None:
        """Make the topic if it is missing, and give it the config of the settings."""
        spec = TopicSpec(ACTIVITY_TOPIC, 1, self._config())
        topic = self._engine.topics.get(ACTIVITY_TOPIC)
        if topic is None:
            await self._engine.create_topic(spec)
        elif topic.described and topic.config != spec.config:
            await self._engine.alter_topic(ACTIVITY_TOPIC, lambda _: spec)

    async def stop(self, grace_seconds: float) -> None:
        """Write what waits, as far as that is possible in time."""
        if self._writing is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._count_repeats()
        self._stopping = True
        self._news.set()
        _, left = await asyncio.wait({self._writing}, timeout=grace_seconds)
        if left:
            self._writing.cancel()
            await asyncio.wait(left)
            logger.warning("activity_lost", entries=len(self._queue) + self._lost)

    def note(
        self, caller: Caller, action: str, about: Mapping[str, object], error: BaseException | None = None
    ) -> None:
        """Note what a caller did, or could not do. about: names and values of what it is about."""
        if self.enabled:
            entry = self._entry(caller.principal, caller.address, action, "ok")
            entry |= {name: _bounded(value) for name, value in about.items()}
            if error is not None:
                entry["outcome"] = "failed"
                entry["error"] = str(error) if isinstance(error, TakhinError) else type(error).__name__
            if self._is_news(caller, entry, error):
                self._put(entry)

    def _is_news(self, caller: Caller, entry: Entry, error: BaseException | None) -> bool:
        """False for one of those that are many, after the first of its kind."""
        if error is None and entry["action"] != JOINED:
            return True
        named = [(name, entry[name]) for name in NAMES if isinstance(entry.get(name), str)]
        if error is not None:
            named.append(("error", type(error).__name__))
        about = (*named, ("outcome", entry["outcome"]))
        kind = Kind(caller.principal, address_of(caller.address), entry["action"], about)
        return self._is_first(self._joins if entry["action"] == JOINED else self._failures, kind)

    def changed_outside(self, changes: Mapping[str, object]) -> None:
        """Note what another process has changed of tokens and rules, in the data folder itself."""
        self.note(OUTSIDE, "access.changed", changes)

    def denied(self, caller: Caller, method: str, code: str, need: Need | None = None) -> None:
        """Note a call that was refused. need: the right that was missing."""
        if not self.enabled:
            return
        about = (
            ("method", method.rpartition("/")[2]),
            ("error", code),
            ("need", "" if need is None else str(need)),
        )
        kind = Kind(caller.principal, address_of(caller.address), "denied", about)
        if self._is_first(self._denials, kind):
            self._put(self._entry_of(kind, 1))

    def _is_first(self, repeats: Repeats, kind: Kind) -> bool:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPEATS_SECONDS, self._count_repeats)
        return repeats.is_first(kind)

    def _count_repeats(self) -> None:
        """Note how many there were beyond the first of each kind in the minute that is over."""
        self._timer = None
        for action, outcome, repeats in (
            ("denied", "denied", self._denials),
            ("failed", "failed", self._failures),
            (JOINED, "ok", self._joins),
        ):
            for kind, count in repeats.rest():
                if isinstance(kind, Kind):
                    self._put(self._entry_of(kind, count))
                else:  # the principal alone
                    self._put(self._entry(kind, "", action, outcome) | {"count": count})

    def _entry_of(self, kind: Kind, count: int) -> Entry:
        entry = self._entry(kind.principal, kind.host, kind.action, "denied")
        return entry | dict(kind.about) | {"count": count}

    def _entry(self, principal: str, address: str, action: str, outcome: str) -> Entry:
        return {
            "at": self._clock(),
            "principal": principal,
            "address": address,
            "action": action,
            "outcome": outcome,
        }

    def _put(self, entry: Entry) -> None:
        if len(self._queue) >= self._settings.queue_max:
            if not self._lost:
                logger.warning("activity_queue_full", limit=self._settings.queue_max)
            self._lost += 1
            return
        self._queue.append(entry)
        self._news.set()

    def _config(self) -> TopicConfig:
        retention = {
            "retention.ms": str(self._settings.retention_ms),
            "retention.bytes": str(self._settings.retention_bytes),
            "cleanup.policy": "delete",
            "read.only": "true",
        }
        return parse(retention, self._all_settings)

    async def _write(self) -> None:
        while self._queue or not self._stopping:
            if not self._queue:
                self._news.clear()
                await self._news.wait()
                continue
            if self._lost:
                lost, self._lost = self._lost, 0
                self._queue.append(self._entry("", "", "activity.lost", "lost") | {"count": lost})
            entries = [self._queue[n] for n in range(min(len(self._queue), BATCH_ENTRIES_MAX))]
            try:
                if ACTIVITY_TOPIC not in self._engine.topics:
                    await self._make_topic()
                await self._engine.topics[ACTIVITY_TOPIC].partitions[0].append(_batch(entries))
            except (TakhinError, OSError) as error:
                logger.warning("activity_not_written", reason=str(error))
                if self._stopping:
                    return
                await asyncio.sleep(STUMBLE_SECONDS)
                continue
            for _ in entries:
                self._queue.popleft()


def _bounded(value: object) -> object:
    """The value with as much of it as an entry needs: entries may have to wait."""
    if isinstance(value, str):
        return value[:CHARS_MAX]
    if isinstance(value, Mapping):
        return {_bounded(name): _bounded(of) for name, of in islice(value.items(), ITEMS_MAX)}
    if isinstance(value, Sequence):
        return [_bounded(item) for item in value[:ITEMS_MAX]]
    return value


def _batch(entries: list[Entry]) -> Batch:
    values = [json.dumps(entry, ensure_ascii=False).encode(errors="replace") for entry in entries]
    keys = [None] * len(values)
    return Batch(keys, values, [entry["at"] for entry in entries], {}, size_bytes(keys, values, ()))

"""The parts of a broker over one engine, put together. Each part owns the verbs of one noun."""

from __future__ import annotations

import time

from takhin.access.store import AccessStore
from takhin.broker.access import Access
from takhin.broker.activity import Activity
from takhin.broker.compaction import CompactionVerbs
from takhin.broker.ends import EndVerbs
from takhin.broker.group_offsets import GroupOffsetVerbs
from takhin.broker.group_views import GroupViewVerbs
from takhin.broker.lag import Ages
from takhin.broker.records import RecordVerbs
from takhin.broker.topics import TopicVerbs
from takhin.clock import Clock
from takhin.groups.coordinator import Coordinator
from takhin.meters import Meters
from takhin.model import BrokerHealth
from takhin.quotas import Quotas
from takhin.settings import Settings
from takhin.storage.contract import Engine


class Broker:
    """Holds the engine, the settings and the parts. Its verbs are called through a `Session`.

    version: what clients are told about the program. access: what keeps tokens and rules; None: every caller
    may do everything.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        clock: Clock,
        version: str,
        access: AccessStore | None = None,
    ) -> None:
        self.settings = settings
        self.concerns: dict[str, str] = {}
        """What is wrong around the broker, one sentence under each name. Who puts it there takes it away."""
        self.meters = Meters()
        self.quotas = Quotas(settings.quotas)
        self.access = Access(access, settings.access, clock, self.concerns)
        self.activity = Activity(engine, settings, clock)
        self.access.on_change_outside.append(self.activity.changed_outside)
        self.topics = TopicVerbs(engine, settings)
        self.records = RecordVerbs(engine, settings, clock)
        self.compaction = CompactionVerbs(engine, settings.topics, clock)
        self.ends = EndVerbs(engine, settings.consume)
        self.coordinator = Coordinator(engine, settings.groups, clock)
        self.access.on_change.append(self.coordinator.rights_changed)
        self.group_offsets = GroupOffsetVerbs(engine, self.coordinator, settings.groups, clock)
        self.group_views = GroupViewVerbs(engine, self.coordinator, Ages(engine, clock), clock)
        self._engine = engine
        self._version = version
        self._started = time.monotonic()

    def drain(self) -> None:
        """Refuse produce requests, members and compactions. What is queued is still committed."""
        self.records.drain()
        self.compaction.drain()
        self.coordinator.drain()

    def health(self) -> BrokerHealth:
        """The program's version, its uptime, and what is wrong now."""
        troubles = [*self._engine.troubles, *self.concerns.values()]
        return BrokerHealth(self._version, int(time.monotonic() - self._started), troubles)

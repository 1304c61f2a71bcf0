"""All numbers of one broker as the answer to a scrape, made in turn with what else the loop has to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from takhin.broker.broker import Broker
from takhin.broker.lag import Ages
from takhin.meters import CALL_SECONDS, Histogram, MethodMeter, Tally
from takhin.metrics.detail import cut
from takhin.metrics.groups import GroupMetrics
from takhin.metrics.library import ProcessMetrics
from takhin.metrics.logs import LogMetrics
from takhin.metrics.loop_delay import LoopDelay
from takhin.metrics.readiness import Phase, Readiness
from takhin.metrics.sheet import Sheet
from takhin.settings import MetricsSettings
from takhin.storage.contract import Engine

STATS = {
    "open_files": "takhin_storage_open_files",
    "queued_bytes": "takhin_storage_queued_bytes",
    "queue_waiters": "takhin_storage_queue_waiters",
    "wal_bytes_left": "takhin_storage_wal_bytes",
    "disk_free_bytes": "takhin_storage_disk_free_bytes",
    "disk_total_bytes": "takhin_storage_disk_total_bytes",
    "disk_full": "takhin_storage_disk_full",
    "disk_low": "takhin_storage_disk_low",
    "ballast_bytes": "takhin_storage_ballast_bytes",
}
"""The metrics of what an engine says in its stats. One that has no files says less."""


class Calls(Protocol):
    """What counts the calls of a server: see takhin/rpc/call_meter.py."""

    refused: Tally

    def methods(self) -> Collection[MethodMeter]:
        """All methods as of now."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts of a server whose numbers are shown. versions: of the program and its libraries, by name."""

    engine: Engine
    broker: Broker
    ages: Ages
    calls: Calls
    versions: Mapping[str, str]


class Scraper:
    """Makes answers, one at a time."""

    def __init__(self, watched: Watched, readiness: Readiness, settings: MetricsSettings) -> None:
        self.delay = LoopDelay()
        self._watched = watched
        self._readiness = readiness
        self._settings = settings
        engine, kafka = watched.engine, settings.kafka_names
        self._logs = LogMetrics(engine, kafka=kafka)
        self._groups = GroupMetrics(engine, watched.broker.coordinator, watched.ages, kafka=kafka)
        self._process = ProcessMetrics()
        self._seconds = Histogram(CALL_SECONDS)
        self._turn = asyncio.Lock()

    async def scrape(self, *, openmetrics: bool) -> bytes:
        """All metrics as of now, as text."""
        async with self._turn:
            began = time.perf_counter()
            sheet = Sheet()
            self._write_broker(sheet)
            self._write_calls(sheet)
            if self._readiness.phase is not Phase.STARTING:  # until then the engine is not open
                self._write_engine(sheet)
                await self._write_logs(sheet)
            text = await sheet.text(self._process.metrics(), openmetrics=openmetrics)
            self._seconds.observe(time.perf_counter() - began)
            return text

    def _write_broker(self, sheet: Sheet) -> None:
        sheet.add("takhin_build_info", 1, *self._watched.versions.values())
        sheet.add("takhin_ready", int(self._readiness.ready))
        sheet.add("takhin_health_reasons", len(self._readiness.reasons()))
        sheet.histogram("takhin_event_loop_delay_seconds", self.delay.seconds)
        sheet.histogram("takhin_metrics_scrape_seconds", self._seconds)
        meters = self._watched.broker.meters
        sheet.tally("takhin_throttled_total", self._watched.broker.quotas.throttled)
        sheet.tally("takhin_auth_failures_total", meters.auth_failures)
        sheet.tally("takhin_access_denied_total", meters.access_denied)
        for certificate, expires_at in meters.certificates.items():
            sheet.add("takhin_certificate_not_after_timestamp_seconds", expires_at, certificate)

    def _write_calls(self, sheet: Sheet) -> None:
        for meter in self._watched.calls.methods():
            of = meter.kind, meter.service, meter.method
            sheet.add("grpc_server_started_total", meter.started, *of)
            sheet.add("grpc_server_msg_received_total", meter.received, *of)
            sheet.add("grpc_server_msg_sent_total", meter.sent, *of)
            for code, count in meter.codes.items():
                sheet.add("grpc_server_handled_total", count, *of, code)
            sheet.histogram("grpc_server_handling_seconds", meter.seconds, *of)
        sheet.tally("takhin_rpc_refused_total", self._watched.calls.refused)

    def _write_engine(self, sheet: Sheet) -> None:
        engine = self._watched.engine
        for name, number in engine.stats().items():
            if name in STATS:
                sheet.add(STATS[name], number)
        meters = engine.meters
        sheet.histogram("takhin_commit_group_records", meters.group_records)
        sheet.histogram("takhin_commit_group_bytes", meters.group_bytes)
        sheet.histogram("takhin_commit_seconds", meters.commit_seconds)
        sheet.histogram("takhin_checkpoint_seconds", meters.checkpoint_seconds)

    async def _write_logs(self, sheet: Sheet) -> None:
        most = self._settings.series_max
        groups = self._groups.names()
        detail = cut({**self._logs.cuts(), **await self._groups.cuts(groups, most)}, most)
        for of, chosen in detail.items():
            sheet.add("takhin_metrics_detail", chosen.value, of)
        await self._logs.write(sheet, partitions=detail["partitions"], topics=detail["topics"])
        await self._groups.write(sheet, groups, groups=detail["groups"], members=detail["members"])
        if self._settings.kafka_names:
            sheet.add("kafka_brokers", 1)

"""The way of spans to the collector, as a part of the server.

OpenTelemetry's SDK sends them on a thread of its own. What it has to say of a collector that does not answer
becomes a line of the broker's log now and then; spans that find no room are dropped without a word.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED, OTEL_TRACES_SAMPLER
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from takhin.settings import TraceSettings
from takhin.tracing.spans import CallSpans

BATCH_SPANS_MAX = 512
QUIET_SECONDS = 60.0
"""Between two lines of the log about spans that are not sent."""

logger = structlog.get_logger()


class Traces:
    """Spans of calls and where they go. Life: `start`, `stop`. `spans` watches the calls meanwhile."""

    def __init__(self, settings: TraceSettings, version: str, *, identified: bool) -> None:
        """identified: callers have to prove who they are."""
        self._settings = settings
        of_environment = OTEL_TRACES_SAMPLER in os.environ
        named = Resource({SERVICE_NAME: "takhin", SERVICE_VERSION: version})
        self._provider = TracerProvider(
            sampler=None if of_environment else ALWAYS_ON,
            resource=Resource.create().merge(named).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        ratio = None if of_environment else settings.sample_ratio
        self.spans = CallSpans(self._provider.get_tracer("takhin", version), ratio, identified=identified)
        self._reports = _Reports()

    async def start(self) -> None:
        """Send spans from now on. Does nothing where OTEL_SDK_DISABLED is true."""
        if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
            return
        self._reports.start()
        # gRPC, because the broker has it anyway; the exporter over HTTP would bring a library of its own.
        exporter = OTLPSpanExporter(
            endpoint=self._settings.endpoint, timeout=self._settings.export_ms_max / 1_000
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=self._settings.queue_spans_max,
                max_export_batch_size=min(BATCH_SPANS_MAX, self._settings.queue_spans_max),
            )
        )

    async def stop(self, grace_seconds: float) -> None:
        """Send what waits, as far as there is time: what the collector does not take by then is lost."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                logger.debug("traces_ended_late")

        # No thread of an executor: the end of the process would wait for it.
        threading.Thread(target=shut, name="takhin-traces-end", daemon=True).start()
        try:
            async with asyncio.timeout(min(grace_seconds, self._settings.export_ms_max / 1_000)):
                await done.wait()
        except TimeoutError:
            logger.warning("traces_lost", reason="the collector did not take the last spans in time")
        self._reports.stop()


class _Reports(logging.Handler):
    """Tells in the broker's log what OpenTelemetry logs, a line in a minute at most. Runs on any thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._quiet_until = 0.0
        self._logger = logging.getLogger("opentelemetry")

    def start(self) -> None:
        self._logger.addHandler(self)
        self._logger.propagate = False
        # It has a line for each span that finds no room.
        logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.ERROR)

    def stop(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            logger.warning("traces_not_sent", reason=record.getMessage())

"""A collector, a broker that sends it the spans of all calls, and OpenTelemetry set up in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from blackbox.broker_process import Broker, looked_over
from tracing.collector import Collector


class Choice(Sampler):
    """Begins traces as long as a test wants them. The program's, which a client has to respect."""

    wanted = True
    asked = 0

    def should_sample(self, *about, **more):
        self.asked += 1
        return (ALWAYS_ON if self.wanted else ALWAYS_OFF).should_sample(*about, **more)

    def get_description(self):
        return "Choice"


@pytest.fixture(scope="session")
def sdk():
    """The only setup that a process may have."""
    choice, exporter = Choice(), InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(choice), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return choice, exporter


@pytest.fixture
def sampler(sdk) -> Choice:
    choice, exporter = sdk
    exporter.clear()
    choice.wanted, choice.asked = True, 0
    return choice


@pytest.fixture
def made(sdk, sampler):
    """The spans that this process has made in the test, by name."""
    _, exporter = sdk

    def found(*names):
        return [span for span in exporter.get_finished_spans() if not names or span.name in names]

    return found


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def traced(tmp_path_factory, collector) -> Iterator[Broker]:
    """It traces what its clients trace, and nothing else."""
    with (
        pytest.MonkeyPatch.context() as patch,
        looked_over(tmp_path_factory.mktemp("traced") / "data") as folder,
    ):
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        with Broker(
            folder,
            traces_enabled="true",
            traces_endpoint=collector.endpoint,
            traces_sample_ratio=0,
            consume_heartbeat_ms=100,
        ) as broker:
            yield broker


@pytest.fixture
def data_dir(tmp_path) -> Iterator[Path]:
    """The data folder for a test's own brokers."""
    with looked_over(tmp_path / "data") as folder:
        yield folder

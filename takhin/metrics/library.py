"""What prometheus-client knows of a process: its memory, processor time, descriptors, garbage collections.

Those metrics have the library's own names (process_*, python_*), which everybody's dashboards know.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from takhin.metrics.sheet import labelled


class ProcessMetrics:
    """The library's collectors, in the form of our lines."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def metrics(self) -> Iterator[tuple[str, str, str, list[str]]]:
        """(name, type, help, lines) of each metric as of now."""
        for metric in self._registry.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            lines = [
                f"{sample.name}{labelled(sample.labels, sample.labels.values())} {sample.value}\n"
                for sample in metric.samples
            ]
            yield name, metric.type, metric.documentation, lines

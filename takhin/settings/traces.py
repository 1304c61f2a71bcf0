"""Settings of the broker's traces."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.settings.fields import setting


def _collector(address: str) -> None:
    """Raise ValueError with the rest of the sentence "the address must be …" for one with blanks."""
    if " " in address:
        raise ValueError("an address without blanks, such as http://127.0.0.1:4317")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Spans of calls, sent to a collector by OTLP over gRPC. Takes the extra `otel`."""

    enabled: bool = setting(False, "make spans of calls and send them to a collector")
    endpoint: str | None = setting(
        None,
        "the collector's address, such as http://127.0.0.1:4317; empty: OTEL_EXPORTER_OTLP_ENDPOINT says it",
        check=_collector,
    )
    sample_ratio: float = setting(
        0.01,
        "share of the calls that are traced, besides those whose client traces them; OTEL_TRACES_SAMPLER, if "
        "it is set, decides instead",
    )
    queue_spans_max: int = setting(
        2_048, "spans that wait to be sent; beyond it the oldest are dropped", least=1
    )
    export_ms_max: int = setting(2_000, "time to send spans in, also for the last ones at the stop", least=1)

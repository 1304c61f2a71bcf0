"""Settings of the metrics, and of the HTTP server that shows them."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.settings.fields import setting, split_address


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """What is shown to those who watch the broker."""

    listen: str | None = setting(
        None,
        "HOST:PORT to serve /metrics, /healthz and /readyz by HTTP; port 0 takes a free one; empty: nowhere",
        check=split_address,
    )
    series_max: int = setting(
        50_000,
        "series about topics and groups; beyond it partitions are summed by topic, and then left out",
        least=0,
    )
    kafka_names: bool = setting(
        False, "show offsets and lags also under the names that kafka_exporter gives them"
    )
    connections_max: int = setting(16, "connections of those who ask for metrics at one time", least=1)
    request_ms_max: int = setting(
        10_000, "time for one of their requests to arrive, and then for its answer to be read", least=1
    )

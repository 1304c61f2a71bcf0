"""The settings tree: every setting with its default, unit, bounds and doc.

`takhin.config` finds the values. The tree is part of the vocabulary so that each layer can take its branch.
To add a setting, add a field: its flag, variable and TOML key follow. Its doc is what `takhin serve --help`,
`--print-config` and the README's table show; a test keeps that table complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from takhin.settings.access import AccessSettings, ActivitySettings
from takhin.settings.fields import INT32_MAX, kind_of, setting, split_address
from takhin.settings.metrics import MetricsSettings
from takhin.settings.quotas import QuotaSettings
from takhin.settings.security import TlsSettings, listen_address
from takhin.settings.serving import ConsumeSettings, GroupSettings, ProduceSettings, RpcSettings
from takhin.settings.storage import StorageSettings, TopicSettings
from takhin.settings.traces import TraceSettings

__all__ = [
    "INT32_MAX",
    "AccessSettings",
    "ActivitySettings",
    "ConsumeSettings",
    "GroupSettings",
    "LogSettings",
    "MetricsSettings",
    "ProduceSettings",
    "QuotaSettings",
    "RpcSettings",
    "Settings",
    "StorageSettings",
    "TlsSettings",
    "TopicSettings",
    "TraceSettings",
    "kind_of",
    "setting",
    "split_address",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The broker's own log lines, on stderr."""

    level: str = setting(
        "info", "the lowest level that is logged", choices=("debug", "info", "warning", "error")
    )
    format: str = setting(
        "auto", "auto is human on a terminal, json elsewhere", choices=("auto", "human", "json")
    )
    access: bool = setting(False, "log a line of level info for each call, when it has ended")
    debug_lines_per_s_max: int = setting(
        1_000, "debug lines in one second; those beyond it are counted instead", least=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree."""

    data_dir: Path = setting(Path("data"), "the data folder")  # noqa: RUF009  makes a field
    listen: tuple[str, ...] = setting(
        ("127.0.0.1:9092",),
        "addresses to serve: HOST:PORT (not encrypted), tls://HOST:PORT, mtls://HOST:PORT (clients show "
        "certificates, too), unix:PATH; port 0 takes a free one",
        least=1,
        check=listen_address,
    )
    allow_plaintext: bool = setting(
        False, "serve other machines although traffic is not encrypted, or clients do not say who they are"
    )
    socket_mode: str = setting(
        "0600",
        "mode of a socket file: its owner may connect, its group, too, or all users",
        choices=("0600", "0660", "0666"),
    )
    shutdown_grace_ms: int = setting(10_000, "time for calls under way to end when stopping", least=0)
    storage: StorageSettings = field(default_factory=StorageSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    produce: ProduceSettings = field(default_factory=ProduceSettings)
    consume: ConsumeSettings = field(default_factory=ConsumeSettings)
    groups: GroupSettings = field(default_factory=GroupSettings)
    rpc: RpcSettings = field(default_factory=RpcSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    activity: ActivitySettings = field(default_factory=ActivitySettings)
    quotas: QuotaSettings = field(default_factory=QuotaSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    traces: TraceSettings = field(default_factory=TraceSettings)
    log: LogSettings = field(default_factory=LogSettings)

"""The settings tree: every setting with its default, unit, bounds and doc.

`takhin.config` finds the values. The tree is part of the vocabulary so that each layer can take its branch.
To add a setting, add a field: its flag, variable and TOML key follow. Its doc is what `takhin serve --help`,
`--print-config` and the README's table show; a test keeps that table complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from takhin.kinds import Bool, Choice, FilePath, Kind, ListOf, Secret, SecretText, Share, Text, Whole
from takhin.model import INT64_MAX, CleanupPolicy, TimestampType

INT32_MAX = (1 << 31) - 1
"""The most that a number may be unless its setting says otherwise: gRPC and SQLite take most as int32."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

GRPC_SCHEMES = {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "google-c2p"}
ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def setting(
    default: Any,
    doc: str,
    *,
    least: int = 0,
    most: int = INT32_MAX,
    no_limit: bool = False,
    choices: Sequence[str] = (),
    check: Callable[[str], object] | None = None,
) -> Any:
    """A field of the tree. Its kind follows from its default: see `kind_of`.

    doc: one line for people.
    least, most: the bounds of a whole number. no_limit: it may also be -1, which means that there is none.
    choices: all that a text, or each item of a list, may be.
    check: raises ValueError with the rest of the sentence "KEY must be …" for a text that will not do.
    """
    kind = kind_of(default, Whole(least, most, no_limit), Choice(tuple(choices)) if choices else Text(check))
    return field(default=default, metadata={"doc": doc, "kind": kind})


def kind_of(default: object, number: Kind[int], text: Kind[str]) -> Kind[Any]:
    """The kind of a setting by its default: bool, int, float (a share), Path, Secret, tuple (a list) or str.

    A list has texts as items. The default of a secret is the empty Secret.
    """
    kinds: dict[type, Kind[Any]] = {
        bool: Bool(),
        int: number,
        float: Share(),
        Path: FilePath(),
        Secret: SecretText(),
        tuple: ListOf(text),
        str: text,
    }
    return next(kind for type_, kind in kinds.items() if isinstance(default, type_))


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. An IPv6 host is written in brackets, which are not part of the result.

    Raises ValueError with the rest of the sentence "the address must be …".
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError("HOST:PORT, an IPv6 host in brackets")
    if match["host"] in GRPC_SCHEMES:  # gRPC would read unix:9092 as a socket file of that name
        raise ValueError(f"HOST:PORT with a host other than {match['host']!r}, which gRPC takes for a scheme")
    port = int(match["port"])
    if port > 65_535:
        raise ValueError("HOST:PORT with a port of at most 65535")
    return match["ipv6"] or match["host"], port


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """How records reach the disk."""

    engine: str = setting(
        "sqlite",
        "where records are kept: in files of data_dir, or in memory until the broker stops",
        choices=("sqlite", "memory"),
    )
    commit_group_records_max: int = setting(
        4_096, "records in one transaction; a larger batch is still written whole", least=1
    )
    commit_group_bytes_max: int = setting(
        8 << 20, "bytes in one transaction; a larger batch is still written whole", least=1
    )
    group_wait_ms: int = setting(
        1, "how long a transaction waits for more records if the last one held several small batches", least=0
    )
    commit_threads: int = setting(2, "threads that wait for the disk in COMMIT", least=1)
    queue_bytes_max: int = setting(
        64 << 20,
        "bytes of records that wait for their commit, in all partitions together",
        least=1,
        most=INT64_MAX,
    )
    queue_wait_ms_max: int = setting(
        1_000, "how long a produce request waits for room in that queue", least=0
    )
    busy_wait_ms_max: int = setting(
        2_000,
        "how long a write waits for another process's lock or for space on a full disk, "
        "and a read for its file to be opened",
        least=1,
    )
    open_partitions_max: int = setting(
        128, "partitions whose files are open at one time, with five descriptors each", least=1
    )
    page_cache_bytes_max: int = setting(
        64 << 20,
        "bytes of the page caches of all open files together; each has at least 256 KiB and at most 4 MiB",
        least=1,
        most=INT64_MAX,
    )
    compaction_bytes_max: int = setting(
        64 << 20,
        "bytes of keys that a compaction keeps in memory; more go to a temporary file",
        least=1 << 20,
        most=INT64_MAX,
    )
    checkpoint_pages: int = setting(
        500, "pages (16 KiB) in a write-ahead log before it is copied into its file", least=1
    )
    wal_bytes_max: int = setting(
        256 << 20, "size of a write-ahead log above which the broker warns", least=1, most=INT64_MAX
    )
    free_pages_percent_max: int = setting(
        25, "share of a quiet partition's file that may be free before it is given back", most=100
    )
    ballast_bytes: int = setting(
        32 << 20, "disk space kept for trims and deletions on a full disk; 0 keeps none", most=INT64_MAX
    )
    free_bytes_low: int = setting(512 << 20, "free disk space below which the broker warns", most=INT64_MAX)
    producers_max: int = setting(
        1_000,
        "producers whose last batches a partition remembers; "
        "beyond that, the 10 % that have been silent longest are forgotten",
        least=1,
    )
    sources_max: int = setting(
        10_000,
        "sources (a group and an input partition) of which a partition remembers what was made of them; "
        "beyond that, a batch with another source is refused",
        least=1,
    )
    recover_wait_ms: int = setting(
        1_000, "how long a partition whose file failed waits before it is tried again", least=1
    )
    strict: bool = setting(
        False, "refuse to start if a partition cannot be served, instead of serving all others"
    )
    hold_age_ms_max: int = setting(600_000, "age of DATA/hold above which the broker warns", least=1)
    readers: str = setting(
        "owner",
        "who may read the files and folders that are made: the broker's user, its group, too, or all users",
        choices=("owner", "group", "all"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """What topics may be."""

    partitions_per_topic_max: int = setting(1_000, "partitions of one topic", least=1)
    partitions_max: int = setting(4_000, "partitions of all topics together", least=1)
    # The defaults of topic configs: each has the name of its config, with underscores.
    max_message_bytes: int = setting(1 << 20, "max.message.bytes of topics that do not say", least=1)
    message_timestamp_type: str = setting(
        str(TimestampType.CREATE_TIME),
        "message.timestamp.type of topics that do not say",
        choices=tuple(map(str, TimestampType)),
    )
    message_timestamp_before_max_ms: int = setting(
        INT64_MAX, "message.timestamp.before.max.ms of topics that do not say", most=INT64_MAX
    )
    message_timestamp_after_max_ms: int = setting(
        3_600_000, "message.timestamp.after.max.ms of topics that do not say", most=INT64_MAX
    )
    cleanup_policy: tuple[str, ...] = setting(
        (str(CleanupPolicy.DELETE),),
        "cleanup.policy of topics that do not say",
        choices=tuple(map(str, CleanupPolicy)),
    )
    retention_ms: int = setting(
        -1, "retention.ms of topics that do not say", least=1, most=INT64_MAX, no_limit=True
    )
    retention_bytes: int = setting(
        -1, "retention.bytes of topics that do not say", least=1, most=INT64_MAX, no_limit=True
    )
    retention_records: int = setting(
        -1, "retention.records of topics that do not say", least=1, most=INT64_MAX, no_limit=True
    )
    retention_consumed: bool = setting(False, "retention.consumed of topics that do not say")
    delete_retention_ms: int = setting(
        86_400_000, "delete.retention.ms of topics that do not say", most=INT64_MAX
    )
    min_compaction_lag_ms: int = setting(0, "min.compaction.lag.ms of topics that do not say", most=INT64_MAX)
    max_compaction_lag_ms: int = setting(
        INT64_MAX, "max.compaction.lag.ms of topics that do not say", least=1, most=INT64_MAX
    )
    min_cleanable_dirty_ratio: float = setting(0.5, "min.cleanable.dirty.ratio of topics that do not say")
    compaction_look_ms: int = setting(
        15_000, "how long until it is looked again whether a compaction is due", least=10
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceSettings:
    """What a produce call may do."""

    batch_records_max: int = setting(10_000, "records in one request", least=1)
    batch_headers_max: int = setting(10_000, "headers in one request, of all its records together", least=0)
    record_headers_max: int = setting(1_000, "headers of one record", least=0)
    stream_requests_max: int = setting(
        1_000, "requests of one produce stream that wait for their commit", least=1
    )
    stream_bytes_max: int = setting(
        16 << 20, "bytes of one produce stream that wait for their commit", least=1, most=INT64_MAX
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeSettings:
    """What a consume call may do."""

    response_bytes: int = setting(1 << 20, "bytes of a response if the client does not say", least=1)
    response_records_max: int = setting(
        2_000,
        "records in a response; reading one occupies the event loop for about 1 µs",
        least=1,
    )
    shared_bytes_max: int = setting(
        16 << 20, "bytes of recent reads kept for other consumers of the same partition", most=INT64_MAX
    )
    wait_ms_max: int = setting(60_000, "the upper limit on a client's max_wait_ms", least=0)
    time_queries_max: int = setting(1_000, "times in one GetOffsetsForTimes call", least=1)
    heartbeat_ms: int = setting(
        5_000, "how long a stream may be quiet before an empty response says it is alive", least=10
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """What consumer groups may do."""

    commit_offsets_max: int = setting(10_000, "offsets in one CommitOffset call", least=1)
    commit_bytes_max: int = setting(
        64 << 20, "bytes of the CommitOffset calls under way, all together", least=1, most=INT64_MAX
    )
    members_max: int = setting(1_000, "members of one group", least=1)
    groups_max: int = setting(10_000, "groups with members", least=1)
    rejoin_ms: int = setting(
        3_000,
        "how long a member whose stream broke may stay away, as may all when the broker starts again",
        most=HOUR_MS,
    )
    session_ms: int = setting(
        45_000, "how long a member may be silent if it does not say", least=1, most=DAY_MS
    )
    session_ms_min: int = setting(
        1_000, "the shortest session that a member may ask for", least=1, most=DAY_MS
    )
    session_ms_max: int = setting(
        HOUR_MS, "the longest session that a member may ask for", least=1, most=DAY_MS
    )
    revoke_ms: int = setting(
        300_000, "how long a member may take to let go of partitions if it does not say", least=1, most=DAY_MS
    )
    revoke_ms_min: int = setting(
        500, "the shortest such time that a member may ask for", least=1, most=DAY_MS
    )
    revoke_ms_max: int = setting(
        HOUR_MS, "the longest such time that a member may ask for", least=1, most=DAY_MS
    )
    first_wait_ms: int = setting(
        100, "how long a new group waits for more members before it shares its partitions out", most=DAY_MS
    )
    change_wait_ms: int = setting(
        50, "the shortest time between two changes of what a group's members are to have", most=HOUR_MS
    )
    topics_max: int = setting(1_000, "topics that a member names", least=1)
    pattern_chars_max: int = setting(500, "characters of a member's topic_pattern", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSettings:
    """Connections and calls."""

    message_bytes_max: int = setting(
        10 << 20, "bytes of one gRPC message, in either direction", least=128 << 10
    )
    arrivals_max: int = setting(
        8,
        "requests that arrive at one time; those of over 64 KiB count until they are queued, under way as "
        "commits, or answered",
        least=1,
    )
    health_arrivals_max: int = setting(
        4, "the same for health checks, which have places of their own", least=1
    )
    slow_arrivals_max: int = setting(
        40, "requests that are slow to arrive, besides those; beyond it one is refused", least=1
    )
    arrival_ms_max: int = setting(10_000, "time for a request to arrive", least=1)
    lookahead_bytes: int = setting(
        128 << 10,
        "bytes that a call may send before they are asked for; a distant client sends as many per round trip",
        least=1_024,
        most=16 << 20,
    )
    """A compromise. Each call that waits for its turn holds so much: 1,000 calls of 4 MB take 400 MB with
    128 KiB and 700 MB with 512. A stream of small messages moves so much per round trip; of larger ones all
    the rest is sent at once when they are asked for. docs/exposing.md has the figures."""
    calls_max: int = setting(2_000, "calls under way, streams included", least=1)
    connections_max: int = setting(1_000, "connections at one time", least=1)
    streams_per_connection_max: int = setting(1_000, "calls under way on one connection", least=1)
    handshake_ms_max: int = setting(10_000, "time a new connection has to start HTTP/2", least=1)
    connection_idle_ms: int = setting(
        900_000, "how long a connection may be without calls before it is closed", least=1
    )
    connection_age_ms: int = setting(1_800_000, "age at which a connection is asked to reconnect", least=1)
    connection_age_grace_ms: int = setting(300_000, "time for the calls of such a connection to end", least=1)
    keepalive_ms: int = setting(300_000, "how long a client may be silent before it is pinged", least=1)
    keepalive_timeout_ms: int = setting(
        60_000, "time to answer that ping before the connection is dropped", least=1
    )
    ping_interval_ms_min: int = setting(
        10_000, "the shortest time between two pings of a client, even with no calls open", least=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The broker's own log lines, on stderr."""

    level: str = setting(
        "info", "the lowest level that is logged", choices=("debug", "info", "warning", "error")
    )
    format: str = setting(
        "auto", "auto is human on a terminal, json elsewhere", choices=("auto", "human", "json")
    )
    debug_lines_per_s_max: int = setting(
        1_000, "debug lines in one second; those beyond it are counted instead", least=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree."""

    data_dir: Path = setting(Path("data"), "the data folder")  # noqa: RUF009  makes a field
    listen: str = setting(
        "127.0.0.1:9092", "HOST:PORT to serve; port 0 takes a free one", check=split_address
    )
    shutdown_grace_ms: int = setting(10_000, "time for calls under way to end when stopping", least=0)
    storage: StorageSettings = field(default_factory=StorageSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    produce: ProduceSettings = field(default_factory=ProduceSettings)
    consume: ConsumeSettings = field(default_factory=ConsumeSettings)
    groups: GroupSettings = field(default_factory=GroupSettings)
    rpc: RpcSettings = field(default_factory=RpcSettings)
    log: LogSettings = field(default_factory=LogSettings)

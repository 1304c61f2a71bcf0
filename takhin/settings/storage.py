"""Settings of what is kept: files, and the topics in them."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.model import INT64_MAX, CleanupPolicy, TimestampType
from takhin.settings.fields import setting


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
        500,
        "pages (16 KiB) in a write-ahead log before it is copied into its file; at twice as many writes wait",
        least=1,
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
    native: str = setting(
        "auto",
        "store and read records in C: where the native library was built, never, or always, so that the "
        "broker does not start without it",
        choices=("auto", "off", "on"),
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

"""Every metric there is: its name, type, labels and what it says. docs/metrics.md shows the same table.

Of prometheus-client's own (process_*, python_*) the library says all that.
"""

from __future__ import annotations

from typing import NamedTuple

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Metric(NamedTuple):
    """One metric. A counter's name ends with _total, as its samples' names do."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, COUNTER, labels, text)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, GAUGE, labels, text)


def _histogram(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, HISTOGRAM, labels, text)


RPC = ("grpc_type", "grpc_service", "grpc_method")
LOG = ("topic", "partition")
OF_GROUP = ("group", "topic", "partition")
OF_KAFKA_GROUP = ("consumergroup", "topic", "partition")

_TABLE = (
    # The broker
    _gauge("takhin_build_info", "Always 1; versions.", "version", "sqlite", "grpc", "python"),
    _gauge("takhin_ready", "1 while the broker serves, 0 while it starts or stops."),
    _gauge("takhin_health_reasons", "How many reasons HealthCheck gives for not being healthy."),
    _histogram("takhin_event_loop_delay_seconds", "How late the event loop is, ten times a second."),
    _counter("takhin_throttled_total", "Requests that a limit delayed or refused.", "limit", "action"),
    _counter("takhin_auth_failures_total", "Calls without valid credentials.", "reason"),
    _counter("takhin_access_denied_total", "Calls that the rules of access do not allow.", "action"),
    _gauge(
        "takhin_certificate_not_after_timestamp_seconds",
        "When the first certificate of the listeners expires, in seconds since 1970.",
        "certificate",
    ),
    # Calls
    _counter("grpc_server_started_total", "Calls that have begun.", *RPC),
    _counter("grpc_server_handled_total", "Calls that have ended, by status.", *RPC, "grpc_code"),
    _counter("grpc_server_msg_received_total", "Messages that clients have sent.", *RPC),
    _counter("grpc_server_msg_sent_total", "Messages that clients were sent.", *RPC),
    _histogram("grpc_server_handling_seconds", "How long calls took, from begin to end.", *RPC),
    _counter(
        "takhin_rpc_refused_total",
        "Responses that tell of an error by their error_code, though the status of their call is OK.",
        "grpc_method",
        "error",
    ),
    # The storage
    _gauge("takhin_partitions", "Partitions by state: closed, open, failed, recovering.", "state"),
    _gauge("takhin_storage_open_files", "Partitions that hold one of storage.open_partitions_max."),
    _gauge("takhin_storage_queued_bytes", "Bytes of records that wait for their commit."),
    _gauge("takhin_storage_queue_waiters", "Produce requests that wait for room in that queue."),
    _gauge("takhin_storage_wal_bytes", "Bytes of write-ahead logs not yet copied into their files."),
    _gauge("takhin_storage_disk_free_bytes", "Bytes free on the disk of the data folder."),
    _gauge("takhin_storage_disk_total_bytes", "Size of the disk of the data folder."),
    _gauge("takhin_storage_disk_full", "1 while no records are taken because the disk is full."),
    _gauge("takhin_storage_disk_low", "1 while less is free than storage.free_bytes_low."),
    _gauge("takhin_storage_ballast_bytes", "Bytes kept for a full disk; 0 when they are given."),
    _histogram("takhin_commit_group_records", "Records of each commit group; its count is groups."),
    _histogram("takhin_commit_group_bytes", "Bytes of each commit group."),
    _histogram("takhin_commit_seconds", "How long each COMMIT took, with its fsync."),
    _histogram("takhin_checkpoint_seconds", "How long each checkpoint of a write-ahead log took."),
    # Topics and partitions
    _gauge("takhin_topics", "Topics."),
    _gauge("takhin_topic_partitions", "Partitions of a topic.", "topic"),
    _counter("takhin_topic_produced_records_total", "Records that have become durable.", "topic"),
    _counter("takhin_topic_produced_bytes_total", "Bytes of those records, about as they came.", "topic"),
    _counter("takhin_topic_consumed_records_total", "Records that consumers were sent.", "topic"),
    _counter("takhin_topic_consumed_bytes_total", "Bytes of the responses with them.", "topic"),
    _gauge("takhin_partition_beginning_offset", "The offset at which the log begins.", *LOG),
    _gauge("takhin_partition_end_offset", "The next offset to be given.", *LOG),
    _gauge("takhin_partition_records", "Records there are.", *LOG),
    _gauge("takhin_partition_size_bytes", "The space that the log takes on the disk.", *LOG),
    _gauge("takhin_partition_state", "0 closed, 1 open, 2 failed, 3 recovering.", *LOG),
    # Consumer groups
    _gauge("takhin_groups", "Consumer groups by state.", "state"),
    _gauge("takhin_group_members", "Members of a group.", "group"),
    _gauge("takhin_group_committed_offset", "The next offset that the group reads.", *OF_GROUP),
    _gauge("takhin_group_lag_records", "Records that the group has yet to read.", *OF_GROUP),
    _gauge("takhin_group_lag_seconds", "The age of the oldest of them; 0: there is none.", *OF_GROUP),
    # What the metrics say of themselves
    _gauge(
        "takhin_metrics_detail",
        "How finely series are cut (metrics.series_max): 3 by partition, 2 topic, 1 group, 0 left out.",
        "of",
    ),
    _histogram("takhin_metrics_scrape_seconds", "How long it took to answer /metrics before now."),
    # With metrics.kafka_names, what kafka_exporter shows of a Kafka cluster
    _gauge("kafka_brokers", "Brokers: 1."),
    _gauge("kafka_topic_partitions", "Partitions of a topic.", "topic"),
    _gauge("kafka_topic_partition_current_offset", "The next offset to be given.", *LOG),
    _gauge("kafka_topic_partition_oldest_offset", "The offset at which the log begins.", *LOG),
    _gauge("kafka_consumergroup_members", "Members of a group.", "consumergroup"),
    _gauge("kafka_consumergroup_current_offset", "The next offset the group reads.", *OF_KAFKA_GROUP),
    _gauge("kafka_consumergroup_lag", "Records that the group has yet to read.", *OF_KAFKA_GROUP),
)

METRICS = {metric.name: metric for metric in _TABLE}
"""By name, in the order in which they are shown."""

"""Settings of what clients may do: produce and consume calls, groups, connections."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.model import INT64_MAX
from takhin.settings.fields import DAY_MS, HOUR_MS, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceSettings:
    """What a produce call may do."""

    batch_records_max: int = setting(10_000, "records in one request", least=1)
    batch_headers_max: int = setting(10_000, "headers in one request, of all its records together", least=0)
    record_headers_max: int = setting(1_000, "headers of one record", least=0)
    header_bytes_max: int = setting(
        1 << 20,
        "bytes of one header, its key and its value; to store the next one beside it, SQLite reads all of it",
        least=0,
    )
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
    unsent_bytes_max: int = setting(
        16 << 20,
        "bytes of responses that clients have not taken yet; the less is left, the smaller they get",
        least=1,
        most=INT64_MAX,
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
    members_total_max: int = setting(10_000, "members of all groups together", least=1)
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
    gzip: bool = setting(
        True, "compress the responses of clients that ask for it (takhin-accept-encoding: gzip)"
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
    metadata_bytes_max: int = setting(
        8 << 10, "bytes of a call's metadata, with 32 more for each entry", least=1_024
    )
    calls_max: int = setting(2_000, "calls under way, streams included", least=1)
    connections_max: int = setting(1_000, "connections at one time, at each address", least=1)
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
        10_000,
        "the shortest time between two pings of a client, also without calls; half of it as they arrive",
        least=1,
    )

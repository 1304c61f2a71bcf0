"""The loads: what is measured and how much of it, the same for every system that is compared.

A load is carried out by a client of the system (takhin_client.py, peer_redis.py, …), which has one function
for each kind. The kinds mean the same for every client:

batches       Requests of many records from one producer, a bounded number unanswered; "produce" is the
              rate of acknowledged records, with the latency of a request beside it. Then, if the load says
              so, one consumer reads every value from the start: "consume".
singles       The same with requests of one record: "produce".
serial        One record a request; the next one is sent when the last is acknowledged: "call".
concurrent    One record a call, a bounded number of calls under way: "produce". Then calls are sent at
              half of the rate just reached, at even intervals, whether answered or not: "half_load".
tail          One record a call; the next one is sent when a consumer that waits at the end of the log has
              received it: "arrival", from before the call until the consumer has the value.
sends         The client library of the system is given one record after the other, and batches them itself.
              "flushed": the program asks at the end whether all is stored. "callbacks": a function of the
              program is called for each record and looks at its outcome. "awaited": the program keeps what
              stands for each record, and awaits all of these at the end.
reads         The client library reads from the start what was stored before: "one", record by record, and
              "together", many at once. The program looks at every value.

Clients build new messages for each request, from keys and values that are prepared; they warm up first, in
the same topic, before the clock starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.common import Figures, Payload, medians, payload

Results = dict[str, Figures]
"""Figures by the part of the load that they belong to: "produce", "consume", …"""

BATCHES, SINGLES, SERIAL, CONCURRENT, TAIL = "batches", "singles", "serial", "concurrent", "tail"
SENDS, READS = "sends", "reads"


@dataclass(frozen=True, slots=True)
class Load:
    """requests: how many are measured. in_flight: how many may be unanswered."""

    kind: str
    records: int
    value_bytes: int
    requests: int
    in_flight: int = 1
    consume: bool = False

    @property
    def warm_up(self) -> int:
        """The number of requests before the clock starts."""
        return max(self.requests // 20, 2)

    def payload(self) -> Payload:
        """The payload of one request."""
        return payload(self.records, self.value_bytes)


LARGE = Load(BATCHES, records=1_000, value_bytes=100, requests=300, in_flight=8, consume=True)
SMALL = Load(BATCHES, records=100, value_bytes=100, requests=1_500, in_flight=8)
KIB = Load(BATCHES, records=500, value_bytes=1_024, requests=150, in_flight=8, consume=True)
OPEN = replace(LARGE, requests=600, in_flight=128, consume=False)
KIB_OPEN = replace(KIB, requests=300, in_flight=128, consume=False)
"""So many may be unanswered that no client waits."""
ONE_RECORD = Load(SINGLES, records=1, value_bytes=100, requests=6_000, in_flight=256)
ONE_CALL = Load(SERIAL, records=1, value_bytes=100, requests=1_000)
MANY_CALLS = Load(CONCURRENT, records=1, value_bytes=100, requests=5_000, in_flight=256)
ARRIVAL = Load(TAIL, records=1, value_bytes=100, requests=500)
ONE_BY_ONE = Load(SENDS, records=1_000, value_bytes=100, requests=300)
READING = Load(READS, records=1_000, value_bytes=100, requests=600, in_flight=8)
READING_KIB = Load(READS, records=500, value_bytes=1_024, requests=300, in_flight=8)


@dataclass(frozen=True, slots=True)
class Amount:
    """What a consumer is to read."""

    records: int
    value_bytes: int

    def check(self, records: int, value_bytes: int) -> None:
        """Raise RuntimeError if it has read anything else."""
        if (records, value_bytes) != (self.records, self.value_bytes):
            raise RuntimeError(
                f"read {records} records with {value_bytes} bytes, not {self.records} with {self.value_bytes}"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, which shows a part of a load's results. key: its name for programs."""

    key: str
    title: str
    load: Load
    part: str


ROWS = (
    Row("produce-100b-1000", "produce 100 B, 1,000 a request, one stream", LARGE, "produce"),
    Row("produce-100b-100", "produce 100 B, 100 a request, one stream", SMALL, "produce"),
    Row("produce-1kib-500", "produce 1 KiB, 500 a request, one stream", KIB, "produce"),
    Row("produce-100b-open", "produce 100 B, 1,000 a request, 128 open", OPEN, "produce"),
    Row("produce-1kib-open", "produce 1 KiB, 500 a request, 128 open", KIB_OPEN, "produce"),
    Row("consume-100b", "consume 100 B from the start", LARGE, "consume"),
    Row("consume-1kib", "consume 1 KiB from the start", KIB, "consume"),
    Row("produce-one", "produce 100 B, one a request, one stream", ONE_RECORD, "produce"),
    Row("unary-serial", "produce 100 B, unary calls one by one", ONE_CALL, "call"),
    Row("unary-256", "produce 100 B, 256 unary calls in flight", MANY_CALLS, "produce"),
    Row("unary-half", "produce 100 B, unary calls at half that rate", MANY_CALLS, "half_load"),
    Row("arrival", "produce to a tailing consumer, 100 B", ARRIVAL, "arrival"),
    Row("client-callbacks", "through the client: 100 B, a callback each", ONE_BY_ONE, "callbacks"),
    Row("client-awaited", "through the client: 100 B, each one awaited", ONE_BY_ONE, "awaited"),
    Row("client-flushed", "through the client: 100 B, flushed at the end", ONE_BY_ONE, "flushed"),
    Row("read-100b", "through the client: read 100 B one by one", READING, "one"),
    Row("read-100b-together", "through the client: read 100 B together", READING, "together"),
    Row("read-1kib", "through the client: read 1 KiB one by one", READING_KIB, "one"),
    Row("read-1kib-together", "through the client: read 1 KiB together", READING_KIB, "together"),
)


def add_row_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--row",
        action="append",
        choices=[row.key for row in ROWS],
        help="measure only this row; may be repeated",
    )


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """The rows that the command line names, or all, with their loads multiplied by --scale."""
    return [_scaled(row, options.scale) for row in ROWS if not options.row or row.key in options.row]


def _scaled(row: Row, scale: float) -> Row:
    """The row with its load's requests scaled, but with enough of them left to measure."""
    load = row.load
    requests = max(round(load.requests * scale), 2 * load.in_flight, 20)
    return replace(row, load=replace(load, requests=requests))


def medians_of(runs: Sequence[Results]) -> Results:
    """The median of each figure of each part over the runs."""
    return {part: medians([run[part] for run in runs]) for part in runs[0]}

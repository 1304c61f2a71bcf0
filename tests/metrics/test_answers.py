"""What /metrics says of a broker's topics, groups and calls, in both formats."""

import asyncio

import pytest

from metrics.support import scrape, server
from takhin.client import Admin, Consumer, Producer, Retry
from takhin.errors import OverloadedError
from takhin.metrics.names import METRICS
from takhin.model import Batch, CommittedOffset, TopicConfig, TopicSpec
from takhin.model import TopicPartition as At

HOSTILE = [
    'a"b',
    "back\\slash",
    "new\nline\r\n",
    "brace}{,=",
    "\x00\x1b[31m\x7f",
    "snow ☃ \U0001f40b",
    'takhin_ready 1\n# EOF\nx{y="z',
    "\u2028\u0085",
    "end\\",
]


def spec(name, partitions):
    return TopicSpec(name, partitions, TopicConfig(1 << 20))


def batch(count=1, size=10):
    return Batch([None] * count, [bytes(size)] * count, [1] * count, {}, count * size)


@pytest.mark.parametrize("openmetrics", [True, False])
async def test_hostile_names_stay_in_their_quotes(openmetrics):
    """Whatever a group is called, the strict parser of the format finds that very name, no more series."""
    async with server(metrics__kafka_names=True) as running:
        await running.engine.create_topic(spec("orders", 1))
        for name in HOSTILE:
            at = At("orders", 0)
            await running.engine.offsets.commit(name, {at: CommittedOffset(0, "", 1)})
        found = await scrape(running, openmetrics=openmetrics)
        lags = found.labels("takhin_group_lag_records")
        assert sorted(each["group"] for each in lags) == sorted(HOSTILE)
        kafka = found.labels("kafka_consumergroup_lag")
        assert sorted(each["consumergroup"] for each in kafka) == sorted(HOSTILE)
        assert found.value("takhin_ready") == 1


@pytest.mark.parametrize("openmetrics", [True, False])
async def test_every_metric_is_in_the_table(openmetrics):
    """Each family has the type, the help and the labels of the table, or is prometheus-client's own."""
    async with server(metrics__kafka_names=True) as running:
        await running.engine.create_topic(spec("orders", 2))
        await running.engine.offsets.commit("shop", {At("orders", 0): CommittedOffset(0, "", 1)})
        found = await scrape(running, openmetrics=openmetrics)
    for family in found.families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith(("process_", "python_")):
            continue
        metric = METRICS[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), name


async def test_records_are_counted_from_end_to_end():
    """Records and bytes produced and consumed, offsets, lag in records and in seconds, and members."""
    async with server() as running:
        async with Admin(running.address) as admin:
            await admin.create_topic("orders", partitions=2)
        async with Producer(running.address) as producer:
            for n in range(10):
                await producer.send("orders", value=b"x" * 100, partition=n % 2)
        group = {"group_id": "shop", "topics": ["orders"], "reset": "earliest", "auto_commit": False}
        async with Consumer(running.address, **group) as consumer:
            count = 0
            async for _ in consumer:
                count += 1
                if count == 10:
                    break
            await consumer.commit({("orders", 0): 2})
            found = await scrape(running)
    assert found.value("takhin_group_members", group="shop") == 1
    assert found.value("takhin_groups", state="Stable") == 1
    of = {"topic": "orders"}
    assert found.value("takhin_topic_produced_records_total", **of) == 10
    assert 1_000 <= found.value("takhin_topic_produced_bytes_total", **of) < 1_500
    assert found.value("takhin_topic_consumed_records_total", **of) == 10
    assert found.value("takhin_topic_consumed_bytes_total", **of) > 1_000
    assert found.value("takhin_partition_end_offset", **of, partition="1") == 5
    assert found.value("takhin_group_committed_offset", group="shop", **of, partition="0") == 2
    assert found.value("takhin_group_lag_records", group="shop", **of, partition="0") == 3
    assert 0 < found.value("takhin_group_lag_seconds", group="shop", **of, partition="0") < 60


async def test_a_topic_made_again_counts_from_0():
    """The counters of a topic go with it: nothing is remembered of names that come and go."""
    async with server() as running:
        for _ in range(2):
            topic = await running.engine.create_topic(spec("orders", 1))
            await topic.partitions[0].append(batch(3))
            found = await scrape(running)
            assert found.value("takhin_topic_produced_records_total", topic="orders") == 3
            await running.engine.delete_topic("orders")
        found = await scrape(running)
        assert found.labels("takhin_topic_produced_records_total") == []
        assert found.value("takhin_topics") == 0


async def test_what_other_parts_count_is_shown():
    """Failures of authentication, denials and certificates have series once something counts."""
    async with server() as running:
        meters = running._broker.meters
        meters.auth_failures.add("expired")
        meters.access_denied.add("write")
        meters.certificates["server.pem"] = 2_000_000_000.5
        found = await scrape(running)
    assert found.value("takhin_auth_failures_total", reason="expired") == 1
    assert found.value("takhin_access_denied_total", action="write") == 1
    expiry = "takhin_certificate_not_after_timestamp_seconds"
    assert found.value(expiry, certificate="server.pem") == 2_000_000_000.5


async def test_what_quotas_hold_back_is_shown():
    """A call beyond a quota counts as refused, what a stream has to wait for as delayed."""
    async with server(quotas__address_requests_per_s=1, quotas__burst_ms=1_000) as running:
        async with Admin(running.address, retry=Retry(attempts_max=1)) as admin:
            with pytest.raises(OverloadedError):
                await asyncio.gather(*(admin.list_topics() for _ in range(20)))
        found = await scrape(running)
    assert found.value("takhin_throttled_total", limit="requests_per_s", action="refused") >= 1


@pytest.mark.parametrize(
    ("series_max", "logs", "groups"),
    [(1_000, "partition", "partition"), (100, "topic", "partition"), (60, "topic", "topic"), (0, None, None)],
)
async def test_series_are_bounded(series_max, logs, groups):
    """With too many partitions they are summed by topic, at last left out; the sums are those of all."""
    async with server(metrics__series_max=series_max) as running:
        offsets = {}
        for name in ("a", "b"):
            topic = await running.engine.create_topic(spec(name, 8))
            for log in topic.partitions:
                await log.append(batch(2))
                offsets[At(name, log.partition)] = CommittedOffset(1, "", 1)
        await running.engine.offsets.commit("shop", offsets)
        found = await scrape(running)
    of_logs, of_groups = found.labels("takhin_partition_end_offset"), found.labels("takhin_group_lag_records")
    assert len(of_logs) == {"partition": 16, "topic": 2, None: 0}[logs]
    assert len(of_groups) == {"partition": 16, "topic": 2, None: 0}[groups]
    total = sum(value for (name, _), value in found.series.items() if name == "takhin_partition_end_offset")
    assert total == (32 if logs else 0)
    lag = sum(value for (name, _), value in found.series.items() if name == "takhin_group_lag_records")
    assert lag == (16 if groups else 0)
    detail = {None: 0, "topic": 2, "partition": 3}
    assert found.value("takhin_metrics_detail", of="partitions") == detail[logs]
    assert found.value("takhin_metrics_detail", of="groups") == detail[groups]
    bounded = ("takhin_partition_", "takhin_topic_", "takhin_group_")
    assert sum(name.startswith(bounded) for name, _ in found.series) <= series_max

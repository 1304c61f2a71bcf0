"""`takhin bench`: its sentences match its work, and its topic is deleted afterwards."""

from __future__ import annotations

import json


def test_bench(takhin):
    found = json.loads(takhin.output("bench", "-n", 3_000, "--bytes", 10, "--partitions", 2, "--json"))
    assert (found["records"], found["bytes"], found["partitions"]) == (3_000, 10, 2)
    assert found["produce_s"] > 0 < found["consume_s"]
    assert 0 < found["latency_p50_ms"] <= found["latency_p99_ms"] <= found["latency_max_ms"]
    said = takhin.output("bench", "-n", 1_000).decode()
    assert said.count("records/s") == 2
    assert "acknowledged, one at a time: p50" in said
    assert b"bench-" not in takhin.output("topics", "list")

"""What is in deploy/, before a real Prometheus: it scrapes a broker and answers all that the dashboard asks.

Debian's prometheus has both programs: scripts/install-packages tests. Without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbox.broker_process import Broker
from metrics.support import Metrics, get
from takhin.client import Consumer, Producer
from takhin.client.sync import Admin
from takhin.metrics.names import METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/takhin.json").read_text())
ALERTS = (DEPLOY / "prometheus/alerts.yml").read_text()
VARIABLES = {"$__rate_interval": "4s", "$instance": ".*", "$topic": ".*"}
WITHOUT_DATA = re.compile(
    r"takhin_(throttled|auth_failures|access_denied|certificate|rpc_refused)|grpc_code!="
)
"""What is asked about things that do not happen here: such questions may have an empty answer."""
NOT_SHOWN = {
    "takhin_partition_beginning_offset",
    "takhin_partition_end_offset",
    "takhin_partition_state",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
}
"""Metrics for questions of one's own: they have a series for each partition, or say what others say."""
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus") or not shutil.which("promtool"),
    reason="there is no prometheus: scripts/install-packages tests",
)


def questions() -> Iterator[tuple[str, str]]:
    """(panel, expression) of everything that the dashboard asks."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are():
    """Each name in them is one of the table, or prometheus-client's; and hardly any is in neither of them."""
    known = {*METRICS, "process_cpu_seconds_total", "process_resident_memory_bytes"}
    known |= {"process_open_fds", "process_max_fds"}
    names = set(re.findall(r"\b(?:takhin|grpc_server|process)_[a-z_]+\b", json.dumps(DASHBOARD) + ALERTS))
    asked = {name if name in known else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert asked <= known
    assert {name for name in METRICS if not name.startswith("kafka_")} - asked == NOT_SHOWN


def test_panels_have_places_and_numbers_of_their_own():
    """No two panels lie over each other, and each says what it shows."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")


@needs_prometheus
@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_promtool_is_content(command):
    """The rules are well formed; each alert fires where its trouble is, and none for a sound broker."""
    done = subprocess.run(
        ["promtool", *command.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus that scrapes one broker four times a second."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = (DEPLOY / "prometheus/prometheus.yml").read_text()
        config = config.replace("127.0.0.1:9464", target).replace("15s", "250ms")
        folder.mkdir()
        (folder / "prometheus.yml").write_text(config)
        (folder / "alerts.yml").write_text(ALERTS)
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
                "--log.level=warn",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, path: str, **parameters: str) -> dict:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> list[dict]:
        return self.ask("query", query=expression)["result"]

    def wait_for(self, expression: str, *, seconds_max: float = 30.0) -> None:
        """Return when the expression has an answer."""
        deadline = time.monotonic() + seconds_max
        while True:
            assert self._process.poll() is None, self._process.stderr.read()
            try:
                if self.value(expression):
                    return
            except OSError:  # it does not listen yet
                pass
            assert time.monotonic() < deadline, f"no answer to {expression}"
            time.sleep(0.05)

    def close(self) -> None:
        with self._process:
            self._process.terminate()


async def traffic(address: str) -> None:
    """Records go in and out until it is cancelled."""
    group = {"group_id": "shop", "topics": ["orders"], "reset": "earliest", "commit_interval_ms": 200}

    async def write() -> None:
        async with Producer(address) as producer:
            while True:
                for n in range(50):
                    await producer.send("orders", value=bytes(100), partition=n % 3)
                await asyncio.sleep(0.02)

    async def read() -> None:
        async with Consumer(address, **group) as consumer:
            async for _ in consumer:
                pass

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(read())


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[tuple[Broker, Prometheus]]:
    folder = tmp_path_factory.mktemp("prometheus")
    with Broker(folder / "data", metrics_listen="127.0.0.1:0") as broker:
        with Admin(broker.address) as admin:
            admin.create_topic("orders", partitions=3)
        prometheus = Prometheus(folder / "prometheus", broker.ready["metrics_address"])
        try:
            yield broker, prometheus
        finally:
            prometheus.close()


@needs_prometheus
async def test_every_panel_and_every_alert_has_an_answer(watched):
    """After some seconds of traffic each panel shows something, and no alert's expression fails."""
    broker, prometheus = watched
    work = asyncio.create_task(traffic(broker.address))
    try:
        await asyncio.to_thread(prometheus.wait_for, "sum(rate(takhin_topic_consumed_records_total[4s])) > 0")
        await asyncio.to_thread(prometheus.wait_for, "sum(deriv(takhin_group_committed_offset[4s])) > 0")
        answers = [
            (panel, expression, await asyncio.to_thread(prometheus.value, expression))
            for panel, expression in questions()
        ]
        empty = [
            f"{panel}: {expression}"
            for panel, expression, found in answers
            if not found and not WITHOUT_DATA.search(expression)
        ]
        assert not empty, "\n".join(empty)
        (group,) = (await asyncio.to_thread(prometheus.ask, "rules"))["groups"]
        assert [(rule["name"], rule["health"]) for rule in group["rules"] if rule["health"] != "ok"] == []
        assert len(group["rules"]) == ALERTS.count("- alert:")
        (target,) = (await asyncio.to_thread(prometheus.ask, "targets"))["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        (seen,) = prometheus.value('takhin_topic_produced_records_total{topic="orders"}')
        answer = await get(broker.ready["metrics_address"], "/metrics")
        found = Metrics(answer.body.decode(), openmetrics=False)
        written = found.value("takhin_topic_produced_records_total", topic="orders")
        assert 0 < float(seen["value"][1]) <= written
    finally:
        work.cancel()
        await asyncio.wait({work})

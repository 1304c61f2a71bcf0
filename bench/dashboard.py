"""Draws deploy/grafana/takhin.json as it looks over a minute and a half of work, without a Grafana.

A broker is scraped by a real Prometheus (Debian's) while records come in waves and one of two groups pauses.
Then Prometheus is asked what the panels ask, over the whole time, and the answers are drawn where the panels
are: docs/dashboard.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from bench.chart import STYLE
from bench.common import arguments, begin, ended, free_port, new_data_dir, running, serve_command
from takhin.client import Admin, Consumer, Producer

DEPLOY = Path(__file__).parents[1] / "deploy"
TOPICS = {"orders": 4, "clicks": 2, "audit": 1}
"""Partitions of each topic."""
WAVE_SECONDS = {"orders": 40, "clicks": 25, "audit": 60}
RECORDS_PER_S = {"orders": 4_000, "clicks": 1_500, "audit": 200}
PAUSE = (0.35, 0.6)
"""The part of the time in which one of the groups does not read."""
ROWS = ("Overview", "Topics", "Consumer groups", "Storage")
"""The rows that are drawn: a picture of all would be too long for a page."""
STEP_SECONDS = 2
UNITS = {"Bps": "B/s", "bytes": "B", "s": "s", "cps": "/s", "ops": "/s"}
COLUMN, ROW = 0.62, 0.34
"""Inches of one cell of Grafana's grid."""


def main() -> None:
    parser = arguments("dashboard", scale=False)
    parser.add_argument("--seconds", type=int, default=90, metavar="N", help="of work [90]")
    parser.add_argument("--svg", type=Path, default=Path("docs/dashboard.svg"), metavar="FILE")
    options = parser.parse_args()
    begin(options)
    answers = _answers(options)
    dashboard = json.loads((DEPLOY / "grafana/takhin.json").read_text())
    _draw(list(_drawn(dashboard["panels"])), answers, options.svg)


def _answers(options: argparse.Namespace) -> dict[str, list[Any]]:
    """What Prometheus says to each expression of the dashboard, after the work."""
    port = free_port()
    flags = ["--metrics-listen", f"127.0.0.1:{port}"]
    with (
        new_data_dir(options.folder) as data_dir,
        new_data_dir(options.folder) as watch_dir,
        running(serve_command(data_dir, flags)) as broker,
        _prometheus(watch_dir, port) as address,
    ):
        began = time.time()
        asyncio.run(_work(broker.address, options.seconds))
        ended_at = time.time()
        dashboard = json.loads((DEPLOY / "grafana/takhin.json").read_text())
        return {
            target["expr"]: _ask(address, target["expr"], began, ended_at)
            for panel in dashboard["panels"]
            for target in panel.get("targets", [])
        }


@contextmanager
def _prometheus(folder: Path, target: int) -> Iterator[str]:
    """A Prometheus that scrapes the broker every second; yields its address."""
    config = (DEPLOY / "prometheus/prometheus.yml").read_text()
    config = config.replace("127.0.0.1:9464", f"127.0.0.1:{target}").replace("15s", "1s")
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text((DEPLOY / "prometheus/alerts.yml").read_text())
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, text=True) as process, ended(process):
        yield address


def _ask(address: str, expression: str, began: float, ended_at: float) -> list[Any]:
    for variable, value in {"$__rate_interval": "5s", "$instance": ".*", "$topic": ".*"}.items():
        expression = expression.replace(variable, value)
    query = {"query": expression, "start": began, "end": ended_at, "step": STEP_SECONDS}
    url = f"http://{address}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


async def _work(address: str, seconds: int) -> None:
    async with Admin(address) as admin:
        for name, partitions in TOPICS.items():
            await admin.create_topic(name, partitions=partitions)
    began = time.monotonic()

    def pause_seconds() -> float:
        """How long a reader is to rest now."""
        done = (time.monotonic() - began) / seconds
        return (PAUSE[1] - done) * seconds if PAUSE[0] < done < PAUSE[1] else 0.0

    tasks = [
        *(asyncio.create_task(_write(address, topic)) for topic in TOPICS),
        asyncio.create_task(_read(address, "billing", ["orders"], lambda: 0.0)),
        asyncio.create_task(_read(address, "search", ["orders", "clicks"], pause_seconds)),
    ]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _write(address: str, topic: str) -> None:
    """Records in waves: between a tenth of the topic's rate and all of it."""
    tick = 0.1
    async with Producer(address) as producer:
        while True:
            wave = 0.55 + 0.45 * math.sin(2 * math.pi * time.monotonic() / WAVE_SECONDS[topic])
            for n in range(round(RECORDS_PER_S[topic] * wave * tick)):
                await producer.send(topic, value=bytes(200), partition=n % TOPICS[topic])
            await asyncio.sleep(tick)


async def _read(address: str, group: str, topics: Sequence[str], pauses: Callable[[], float]) -> None:
    options = {"group_id": group, "topics": topics, "reset": "earliest", "commit_interval_ms": 500}
    async with Consumer(address, **options) as consumer:
        async for _ in consumer:
            if (left := pauses()) > 0:
                await asyncio.sleep(left)


def _drawn(panels: Sequence[Any]) -> Iterator[Any]:
    """The panels of the rows that are drawn, moved up to where the others are left out."""
    top, drawn = 0, False
    for panel in panels:
        at = panel["gridPos"]
        if panel["type"] == "row":
            drawn = panel["title"] in ROWS
            offset = at["y"] - top
        if drawn:
            top = max(top, at["y"] - offset + at["h"])
            yield {**panel, "gridPos": {**at, "y": at["y"] - offset}}


def _draw(panels: Sequence[Any], answers: dict[str, list[Any]], path: Path) -> None:
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    with mpl.rc_context({**STYLE, "font.size": 6}):
        figure = Figure(figsize=(24 * COLUMN, height * ROW))
        for panel in panels:
            at = panel["gridPos"]
            left, bottom = at["x"] / 24, 1 - (at["y"] + at["h"]) / height
            if panel["type"] == "row":
                figure.text(left + 0.004, bottom + 0.002, panel["title"], fontsize=9, fontweight="bold")
                continue
            box = (
                left + 0.028,
                bottom + 0.9 / height,
                at["w"] / 24 - 0.038,
                (at["h"] - 2.2) / height,
            )
            axes = figure.add_axes(box)
            axes.set_title(panel["title"], fontsize=7, loc="left")
            if panel["type"] == "stat":
                _draw_number(axes, answers[panel["targets"][0]["expr"]], _unit(panel))
            else:
                _draw_lines(axes, panel, answers)
        figure.savefig(path, metadata={"Date": None})
    print(f"drawn: {path}")


def _draw_number(axes: Axes, found: Sequence[Any], unit: str) -> None:
    axes.set_axis_off()
    text = EngFormatter(unit, places=1)(float(found[0]["values"][-1][1])) if found else "no data"
    axes.text(0.5, 0.4, text.replace(".0", ""), fontsize=14, ha="center", va="center", color="#0b6e4f")


def _draw_lines(axes: Axes, panel: Any, answers: dict[str, list[Any]]) -> None:
    for target in panel["targets"]:
        for series in answers[target["expr"]]:
            times, values = zip(*((at, float(value)) for at, value in series["values"]), strict=True)
            axes.plot(
                [at - times[0] for at in times], values, lw=0.9, label=_legend(target, series["metric"])
            )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(_unit(panel)))
    axes.grid(visible=True, alpha=0.25)
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        axes.text(
            0.5, 0.5, "no data: none of it happened", transform=axes.transAxes, ha="center", color="gray"
        )
    elif any(labels):
        axes.legend(fontsize=4.5, loc="upper left", ncols=2, frameon=False)


def _legend(target: Any, labels: dict[str, str]) -> str:
    text: str = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _unit(panel: Any) -> str:
    return UNITS.get(panel["fieldConfig"]["defaults"]["unit"], "")


if __name__ == "__main__":
    main()

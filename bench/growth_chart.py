"""Draws what growth.py has measured, in the style of chart.py. It knows only that program's JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.chart import COLOURS, STYLE, machine_line

PARTS = {
    "size": (
        "records",
        "records in the log",
        (
            ("Records per second", {"produce_per_s": "produced", "consume_per_s": "consumed"}),
            (
                "Milliseconds to the first batch",
                {"first_p50_ms": "median", "first_p99_ms": "99th percentile"},
            ),
            ("Memory of the broker, MB", {"rss_mb": "resident"}),
        ),
    ),
    "partitions": (
        "partitions",
        "partitions",
        (
            ("Records produced per second", {"produce_per_s": "round robin, one stream"}),
            ("Milliseconds to start", {"start_ms": "from spawn to ready"}),
            (
                "Memory of the broker, MB",
                {"produced_rss_mb": "after producing", "started_rss_mb": "after a start"},
            ),
        ),
    ),
    "tails": (
        "tails",
        "tailing consumers",
        (
            ("Records produced per second", {"produce_per_s": "beside so many consumers"}),
            ("Records received per second", {"received_per_s": "by all consumers together"}),
            ("Memory of the broker, MB", {"rss_mb": "at the end", "peak_rss_mb": "at most"}),
        ),
    ),
}
"""For each part: the figure that grows, its name, and the panels with the figures that they show."""
BARS = (COLOURS["takhin"], COLOURS["nats"])


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write an SVG: a line of three panels for each part, with the machine under them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = document["parts"]
    height = 2.8 * len(parts) + 0.5
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, height))
        for line, (part, rows) in enumerate(parts.items()):
            by, label, panels = PARTS[part]
            for column, (title, series) in enumerate(panels):
                axes = figure.add_subplot(len(parts), 3, 3 * line + column + 1)
                _panel(axes, title, rows, series)
                axes.set_yticks(range(len(rows)), [f"{row[by]:,.0f}" for row in rows], fontsize=8)
                axes.set_ylabel("" if column else label, fontsize=8)
        figure.text(0.02, 0.08 / height, _caption(document), fontsize=7, color="#555555", linespacing=1.5)
        figure.subplots_adjust(
            left=0.11, right=0.98, top=1 - 0.3 / height, bottom=0.75 / height, wspace=0.38, hspace=0.45
        )
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _panel(axes: Axes, title: str, rows: Sequence[Mapping[str, float]], series: Mapping[str, str]) -> None:
    """Draw a group of horizontal bars for each row: one bar for each figure, with its name below."""
    height = 0.8 / len(series)
    for number, (figure, label) in enumerate(series.items()):
        values = [row[figure] for row in rows]
        places = [at + (number - (len(series) - 1) / 2) * height for at in range(len(rows))]
        bars = axes.barh(places, values, height=0.9 * height, color=BARS[number], label=label)
        axes.bar_label(bars, [_text(value) for value in values], padding=2, fontsize=7)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.tick_params(left=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.02), ncols=2, handlelength=0.8
    )


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _caption(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"{machine['date']}: 100 B values, 1,000 a request, 8 requests unanswered; "
        f"{document['durability']}; every figure of one run.\n{machine_line(machine)}"
    )

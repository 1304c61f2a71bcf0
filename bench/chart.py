"""Draws what peers.py has measured. It knows that program's JSON document and nothing of the measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = {
    "takhin": "#0b6e4f",
    "redis": "#c8553d",
    "redis-4": "#e09f8f",
    "nats-always": "#4a6fa5",
    "nats": "#9db4d3",
    "kafka": "#6d4c91",
    "kafka-defaults": "#a78bc2",
    "kafka-unsynced": "#d3c4e0",
    "echo": "#8d8d8d",
    "apsw": "#c4c4c4",
}
PANELS = (
    (
        "Records produced per second, in batches",
        (
            "produce-100b-1000",
            "produce-100b-100",
            "produce-1kib-500",
            "produce-100b-open",
            "produce-1kib-open",
        ),
    ),
    ("Records consumed per second", ("consume-100b", "consume-1kib")),
    ("Records produced per second, one a message", ("produce-one", "unary-256")),
    ("Milliseconds (less is better)", ("unary-serial", "unary-half", "arrival")),
    (
        "Records sent per second, through the client library",
        ("client-callbacks", "client-awaited", "client-flushed"),
    ),
    (
        "Records read per second, through the client library",
        ("read-100b", "read-100b-together", "read-1kib", "read-1kib-together"),
    ),
)
NAMES = {
    "produce-100b-1000": "100 B,\n1,000 a request",
    "produce-100b-100": "100 B,\n100 a request",
    "produce-1kib-500": "1 KiB,\n500 a request",
    "produce-100b-open": "100 B, 1,000\na request,\n128 open",
    "produce-1kib-open": "1 KiB, 500\na request,\n128 open",
    "consume-100b": "100 B,\nfrom the start",
    "consume-1kib": "1 KiB,\nfrom the start",
    "produce-one": "one stream",
    "unary-256": "256 calls\nin flight",
    "unary-serial": "a call,\nmedian",
    "unary-half": "a call at half\nload, 99th\npercentile",
    "arrival": "to a waiting\nconsumer,\nmedian",
    "client-callbacks": "100 B,\na callback\neach",
    "client-awaited": "100 B,\neach one\nawaited",
    "client-flushed": "100 B,\nflushed\nat the end",
    "read-100b": "100 B,\none by one",
    "read-100b-together": "100 B,\ntogether",
    "read-1kib": "1 KiB,\none by one",
    "read-1kib-together": "1 KiB,\ntogether",
}
BARS_MIN = 20
STYLE: Any = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "takhin",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write an SVG: a panel of bars for each kind of row, with the systems and the machine under them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["row"]: row for row in document["rows"]}
    panels = [(title, [rows[key] for key in keys if key in rows]) for title, keys in PANELS]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 19))
        heights = [_height(of_panel) for _, of_panel in panels]
        ratios = list(map(max, heights[::2], heights[1::2]))
        grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
        for place, (title, of_panel) in enumerate(panels):
            if of_panel:
                _panel(figure.add_subplot(grid[place]), title, of_panel, document["systems"])
        _legend(figure, document["systems"])
        figure.text(0.02, 0.005, _caption(document), fontsize=7, color="#555555", linespacing=1.5)
        figure.subplots_adjust(left=0.1, right=0.97, top=0.98, bottom=0.145, wspace=0.28, hspace=0.12)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _height(rows: Sequence[Mapping[str, Any]]) -> int:
    """How high a panel is beside others: its bars and what is between its rows, and not too little."""
    return max(BARS_MIN, sum(len(row["medians"]) + 1 for row in rows))


def _panel(axes: Axes, title: str, rows: Sequence[Mapping[str, Any]], systems: Sequence[Any]) -> None:
    """Draw a group of horizontal bars for each row: a bar for each system that has the row, Takhin on top."""
    at = 0.0
    ticks = []
    for row in rows:
        having = [system["key"] for system in systems if system["key"] in row["medians"]]
        values = [row["medians"][key][row["figure"]] for key in having]
        places = [at + n for n in range(len(having))]
        hatches = ["" if system["synced"] else "///" for system in systems if system["key"] in having]
        look: Any = {"color": [COLOURS[key] for key in having], "hatch": hatches, "edgecolor": "white"}
        bars = axes.barh(places, values, height=0.85, linewidth=0, **look)
        form = "{:,.0f}" if row["figure"] == "records_per_s" else "{:.2f}"
        axes.bar_label(bars, [form.format(value) for value in values], padding=2, fontsize=7)
        ticks.append((places[0] + places[-1]) / 2)
        at = places[-1] + 2
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_yticks(ticks, [NAMES[row["row"]] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.tick_params(left=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _legend(figure: Figure, systems: Sequence[Mapping[str, str]]) -> None:
    labels = [f"{of['title']} {of['version']}: {of['durability']}" for of in systems]
    handles = [
        Patch(facecolor=COLOURS[of["key"]], edgecolor="white", hatch="" if of["synced"] else "///")
        for of in systems
    ]
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.01, 0.025), frameon=False, fontsize=8)


def _caption(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"{machine['date']}: medians of {document['rounds']} rounds, all systems in turn on one machine, "
        f"each with its own Python client.\n{machine_line(machine)}"
    )


def machine_line(machine: Mapping[str, str]) -> str:
    """The line under a chart that names the machine."""
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory']}, {machine['kernel']}, "
        f"{machine['disk']}, Python {machine['python']}"
    )

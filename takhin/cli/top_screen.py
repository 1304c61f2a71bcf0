"""How `takhin top` looks: a picture as lines that fit a terminal of any size. It asks no broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from takhin.cli.looks import GroupRow, Picture, TopicRow
from takhin.cli.output import age
from takhin.cli.rows import ESCAPED
from takhin.sentences import sized

GAP = 2
"""Spaces between columns."""
NAME_WIDTH_MIN = 12
REASONS_MAX = 3
"""Reasons that are shown, so that something else is seen, too."""

GOOD, BAD, TITLE, PLAIN = "green", "red", "bold", ""
TOPIC_TITLES = ("topic", "records/s", "partitions", "records", "size")
GROUP_TITLES = ("group", "lag", "behind", "records/s", "members", "state")


class Line(NamedTuple):
    """A line of the screen, and its style."""

    text: str
    style: str = PLAIN


def lines(shown: Picture, server: str, *, width: int, height: int, trouble: str = "") -> list[Line]:
    """At most `height` lines, each of at most `width` cells. trouble: why the picture is an old one."""
    head = _head(shown, server, trouble)
    room = height - len(head) - 4  # two titles, a gap, and the line with the keys
    groups = min(len(shown.groups), max(room - len(shown.topics), room // 2))
    topics = max(0, room - groups)
    found = [
        *head,
        *_table(TOPIC_TITLES, [topic_cells(row) for row in shown.topics], width, topics),
        Line(""),
        *_table(GROUP_TITLES, [group_cells(row) for row in shown.groups], width, groups),
    ]
    return [Line(_fitted(line.text, width), line.style) for line in (*found[: height - 1], Line("q quits"))][
        :height
    ]


def headline(shown: Picture, server: str) -> str:
    """One line about the broker itself."""
    health = shown.health
    return (
        f"{health.status}: Takhin {health.version} at {server}, up for {age(1_000 * health.uptime_seconds)}, "
        f"{rate(shown.produced_per_s)} records/s in, {rate(shown.consumed_per_s)} read by groups"
    )


def rate(per_s: float | None) -> str:
    """A rate for people; "-" where it is not known."""
    if per_s is None:
        return "-"
    return f"{per_s:.1f}" if 0 < per_s < 10 else f"{per_s:,.0f}"


def topic_cells(row: TopicRow) -> list[str]:
    """What is shown of a topic, under TOPIC_TITLES."""
    partitions = f"{row.partitions}" if not row.unserved else f"{row.partitions} ({row.unserved} not served)"
    return [row.name, rate(row.records_per_s), partitions, f"{row.records:,}", sized(row.size_bytes)]


def group_cells(row: GroupRow) -> list[str]:
    """What is shown of a group, under GROUP_TITLES."""
    behind = "-" if row.lag_ms is None else age(row.lag_ms)
    return [row.group_id, f"{row.lag:,}", behind, rate(row.records_per_s), str(row.members), row.state]


def _head(shown: Picture, server: str, trouble: str) -> list[Line]:
    good = shown.health.status == "healthy" and not trouble
    first = Line(headline(shown, server), GOOD if good else BAD)
    reasons = [trouble] if trouble else list(shown.health.reasons[:REASONS_MAX])
    return [first, *(Line(f"- {reason.translate(ESCAPED)}", BAD) for reason in reasons), Line("")]


def _fitted(text: str, width: int) -> str:
    """The text, cut if it has more cells. A character of Chinese takes two."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, room: int) -> list[Line]:
    """The rows that there is room for, under their titles: a name to the left, all else to the right.

    If the line is too short, columns are left out from the right, and then the name is cut.
    """
    shown = [[cell.translate(ESCAPED) for cell in row] for row in rows[: max(0, room)]]
    if len(rows) > len(shown) and shown:
        shown[-1] = [f"… and {len(rows) - len(shown) + 1} more", *([""] * (len(titles) - 1))]
    widths = [max(map(cell_len, column)) for column in zip(titles, *shown, strict=True)]
    while len(widths) > 1 and NAME_WIDTH_MIN + sum(widths[1:]) + GAP * (len(widths) - 1) > width:
        widths.pop()
    name_room = max(1, width - sum(widths[1:]) - GAP * (len(widths) - 1))
    widths[0] = min(widths[0], name_room)

    def text(row: Sequence[str]) -> str:
        name, *others = row[: len(widths)]
        numbers = [f"{cell:>{of}}" for cell, of in zip(others, widths[1:], strict=True)]
        return (" " * GAP).join([set_cell_size(_fitted(name, widths[0]), widths[0]), *numbers])

    return [Line(text(titles), TITLE), *(Line(text(row)) for row in shown)]

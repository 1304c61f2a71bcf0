"""docs/metrics.md has every metric and every alert, as they are."""

import re
from pathlib import Path

from takhin.metrics.library import ProcessMetrics
from takhin.metrics.names import METRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
LABEL = re.compile(r'(\w+)="')


def test_the_table_has_every_metric():
    """A row for each metric of ours, then of prometheus-client, with type, labels and help."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.help} |"
        for metric in METRICS.values()
    ]
    rows += [
        f"| `{name}` | {kind} | {', '.join(LABEL.findall(lines[0]))} | {text} |"
        for name, kind, text, lines in ProcessMetrics().metrics()
    ]
    assert PAGE.split("|---|---|---|---|\n")[1].splitlines() == rows, "\n".join(rows)


def test_each_alert_has_its_advice():
    """The page says of each alert what helps, in the order of the file."""
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    assert re.findall(r"^\| (Takhin.+?) \|", PAGE, re.MULTILINE) != []
    told = [name for row in re.findall(r"^\| (Takhin.+?) \|", PAGE, re.MULTILINE) for name in row.split(", ")]
    assert told == alerts

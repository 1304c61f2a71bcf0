"""Whole runs over loopback: this process is the client, the broker is a process of its own.

Every figure is the median over the runs. Arguments after `--` are flags of `takhin serve`, to see what a
setting does: python -m bench.produce --row produce-100b-1000 -- --storage-checkpoint-pages 4000
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from bench.common import arguments, begin, broker, say_durability, write_json
from bench.loads import Load, Results, Row, add_row_option, chosen_rows, medians_of
from bench.takhin_client import measure

FIGURES = {"records_per_s": "{:,.0f}", "mb_per_s": "{:,.1f}", "p50_ms": "{:.2f}", "p99_ms": "{:.2f}"}
WIDTH = 12


def main() -> None:
    options = _options()
    rows = chosen_rows(options)
    about = begin(options)
    held = say_durability(options.folder)
    print(f"takhin serve {' '.join(options.flags) or 'with its default settings'}", flush=True)
    runs: dict[Load, list[Results]] = {row.load: [] for row in rows}
    with broker(options.folder, options.flags) as address:
        for _ in range(options.repeat):
            for load, results in runs.items():
                results.append(measure(address, load))
    _print_table(rows, runs, options.repeat)
    if options.json:
        settings = {"durability": held, "flags": options.flags, "repeat": options.repeat}
        results = [_as_json(row, runs[row.load]) for row in rows]
        write_json(options.json, {"machine": about, **settings, "rows": results})


def _options() -> argparse.Namespace:
    parser = arguments("produce", repeat="runs")
    add_row_option(parser)
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="a flag of takhin serve")
    return parser.parse_args()


def _print_table(rows: Sequence[Row], runs: dict[Load, list[Results]], repeat: int) -> None:
    print(f"\n{f'medians of {repeat} runs':46}" + "".join(f"{name:>{WIDTH + 2}}" for name in FIGURES))
    for row in rows:
        figures = medians_of(runs[row.load])[row.part]
        cells = [form.format(figures[name]) if name in figures else "" for name, form in FIGURES.items()]
        print(f"{row.title:46}" + "".join(f"{cell:>{WIDTH + 2}}" for cell in cells))


def _as_json(row: Row, runs: Sequence[Results]) -> dict[str, object]:
    return {
        "row": row.key,
        "title": row.title,
        "load": dataclasses.asdict(row.load),
        "median": medians_of(runs)[row.part],
        "runs": [run[row.part] for run in runs],
    }


if __name__ == "__main__":
    main()

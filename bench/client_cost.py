"""The client library of the working tree beside that of another commit: what a record takes of processors.

The broker is that of this tree. In each round every way of using the client is carried out with both, each in
a process of its own; the next round reverses the order. What is compared is the processors' time in that
process, all its threads: other programs on the machine change it little. compare.py tells of the intervals.
Usage: python -m bench.client_cost HEAD --way "send, keys"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.client_ways import WAYS
from bench.common import arguments, begin, broker, write_json
from bench.compare import PYTHON_FLAGS, Tree, commit_tree, interval, verdict, verify, working_tree

SCRIPT = Path(__file__).parent / "client_ways.py"
RECORDS = 200_000


def main() -> None:
    options = _options()
    about = begin(options)
    records = int(RECORDS * options.scale) // 1_000 * 1_000
    with commit_tree(options.ref) as old, working_tree() as new, broker(options.folder) as address:
        for age, tree in (("old", old), ("new", new)):
            verify(tree)
            print(f"{age}: {tree.name}", flush=True)
        runs: dict[str, list[tuple[float, float]]] = {way: [] for way in options.way or WAYS}
        for number in range(options.repeat):
            order = (old, new) if number % 2 == 0 else (new, old)
            for way, pairs in runs.items():
                took = {tree.name: _run(tree, address, way, records) for tree in order}
                pairs.append((took[old.name]["cpu_us"], took[new.name]["cpu_us"]))
            print(f"round {number + 1} of {options.repeat} done", file=sys.stderr)
    compared = [_compared(way, pairs) for way, pairs in runs.items()]
    print(f"\n{'processor, µs a record':28}{'old':>8}{'new':>8}{'new/old':>9}{'95 % interval':>18}")
    for row in compared:
        low, high = row["interval"]
        print(
            f"{row['way']:28}{row['old']:8.2f}{row['new']:8.2f}{row['ratio']:9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}   {row['verdict']}"
        )
    if options.json:
        trees = {"old": old.name, "new": new.name, "repeat": options.repeat, "records": records}
        write_json(options.json, {"machine": about, **trees, "rows": compared})


def _options() -> argparse.Namespace:
    parser = arguments("client_cost", repeat="rounds, best an even number", times=6)
    parser.add_argument("ref", metavar="REF", help="the old commit, to compare with")
    parser.add_argument("--way", action="append", choices=WAYS, help="measure only this; may be repeated")
    return parser.parse_args()


def _run(tree: Tree, address: str, way: str, records: int) -> dict[str, float]:
    command = [sys.executable, *PYTHON_FLAGS, str(SCRIPT), address, way, str(records)]
    done = subprocess.run(
        command, env=os.environ | tree.variables, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _compared(way: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ratios = [new / old for old, new in pairs]
    low, high = interval(ratios)
    return {
        "way": way,
        "old": median(old for old, _ in pairs),
        "new": median(new for _, new in pairs),
        "ratio": median(ratios),
        "interval": [low, high],
        "verdict": verdict(low, high, more_is_better=False, rounds=len(pairs)),
        "rounds": [{"old": old, "new": new} for old, new in pairs],
    }


if __name__ == "__main__":
    main()

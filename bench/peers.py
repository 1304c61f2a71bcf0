"""Takhin beside its alternatives and beside its floors, in one run on one machine.

In each round every system carries out every load once, in turn, with the same payloads and its own Python
client in a process of its own; a figure is the median over the rounds. Redis and NATS take part if they are
installed: this program installs nothing. It prints a table and writes peers.json and the chart peers.svg.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import arguments, begin, can_draw, write_json
from bench.loads import Load, Results, Row, add_row_option, chosen_rows, medians_of
from bench.systems import SYSTEMS, System

UNITS = {"records_per_s": "records/s", "p50_ms": "ms, p50", "p99_ms": "ms, p99"}

Runs = Mapping[tuple[str, Load], Sequence[Results]]
"""What each system did with each load, a result for each round."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A rate at least `factor` times a peer's, or a time at most `factor` times the peer's plus `plus` ms.

    peer: empty for a bound that depends on no other system.
    """

    peer: str
    factor: float
    plus: float = 0


FIGURES = {"unary-serial": "p50_ms", "unary-half": "p99_ms", "arrival": "p50_ms"}
"""The figure that the table shows for a row; records_per_s for all other rows."""

GOALS = {
    "produce-100b-1000": (Goal("redis", 6), Goal("apsw", 0.6)),
    "produce-100b-100": (Goal("redis", 3),),
    "produce-1kib-500": (Goal("redis", 3.5),),
    "consume-100b": (Goal("redis", 1.5),),
    "consume-1kib": (Goal("redis", 1),),
    "produce-one": (Goal("echo", 0.9),),
    "unary-serial": (Goal("echo", 1, plus=0.35),),
    "unary-256": (Goal("echo", 0.8),),
    "unary-half": (Goal("", 0, plus=5),),
    "arrival": (Goal("echo", 2.5),),
}


def main() -> None:
    options = _options()
    about = begin(options)
    systems = _installed()
    rows = chosen_rows(options)
    with ExitStack() as stack:
        addresses = _serve_all(systems, options.folder, stack)
        versions = {system.key: system.load_module().version(addresses[system.key]) for system in systems}
        runs = _measure(systems, addresses, list(dict.fromkeys(row.load for row in rows)), options.repeat)
    document = {
        "machine": about,
        "rounds": options.repeat,
        "systems": [
            {"key": of.key, "title": of.title, "version": versions[of.key], "durability": of.durability}
            for of in systems
        ],
        "rows": [_as_json(row, systems, runs) for row in rows],
    }
    _print_table(document)
    write_json(options.json or options.out / "peers.json", document)
    if can_draw():
        from bench.chart import draw  # noqa: PLC0415  only here, because it may be missing

        draw(document, options.out / "peers.svg")


def _options() -> argparse.Namespace:
    parser = arguments("peers", repeat="rounds")
    add_row_option(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs"),
        metavar="DIR",
        help="write peers.json and peers.svg here [docs]",
    )
    return parser.parse_args()


def _installed() -> list[System]:
    """The systems that can be measured here; prints what the others lack."""
    systems = []
    for system in SYSTEMS:
        if missing := system.missing():
            print(f"no column for {system.title}: {', and '.join(missing)}", file=sys.stderr)
        else:
            systems.append(system)
    return systems


def _serve_all(systems: Sequence[System], folder: Path, stack: ExitStack) -> dict[str, str]:
    """Start every server; all of them run to the end and are idle while it is not their turn."""
    addresses: dict[str, str] = {}
    for system in systems:
        if system.shares:
            addresses[system.key] = addresses[system.shares]
        else:
            addresses[system.key] = stack.enter_context(system.serve(folder))
    return addresses


def _measure(
    systems: Sequence[System], addresses: Mapping[str, str], loads: Sequence[Load], rounds: int
) -> Runs:
    """Let each system run each load in turn, and repeat all of that in each round; a client is a process."""
    runs: dict[tuple[str, Load], list[Results]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        clients = {
            system: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for system in systems
        }
        for number in range(rounds):
            for load in loads:
                # Rotate the order, so that no system always follows the same one.
                first = number % len(systems)
                for system in (*systems[first:], *systems[:first]):
                    measuring = clients[system].submit(system.measure, addresses[system.key], load)
                    runs.setdefault((system.key, load), []).append(measuring.result())
                    os.sync()  # so that one system's unsynced data is not written during another's turn
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return runs


def _as_json(row: Row, systems: Sequence[System], runs: Runs) -> dict[str, Any]:
    """The row with the median of every system that has it, and the result for each goal."""
    of_systems = {system.key: runs[system.key, row.load] for system in systems}
    having = {key: results for key, results in of_systems.items() if row.part in results[0]}
    medians = {key: medians_of(results)[row.part] for key, results in having.items()}
    figure = FIGURES.get(row.key, "records_per_s")
    return {
        "row": row.key,
        "title": row.title,
        "figure": figure,
        "medians": medians,
        "goals": [
            _judged(goal, figure, medians) for goal in GOALS[row.key] if not goal.peer or goal.peer in medians
        ],
        "rounds": {key: [result[row.part] for result in results] for key, results in having.items()},
    }


def _judged(goal: Goal, figure: str, medians: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The goal as a sentence, and True if it is reached."""
    own = medians["takhin"][figure]
    peer = medians[goal.peer][figure] if goal.peer else 0
    if figure == "records_per_s":
        met = own >= goal.factor * peer
        return {"met": met, "text": f"{own / peer:.2f} x {goal.peer} (at least {goal.factor:g})"}
    met = own <= goal.factor * peer + goal.plus
    if not goal.peer:
        return {"met": met, "text": f"{own:.2f} ms (at most {goal.plus:g})"}
    if goal.plus:
        return {"met": met, "text": f"{goal.peer} {own - peer:+.2f} ms (at most +{goal.plus:g})"}
    return {"met": met, "text": f"{own / peer:.2f} x {goal.peer} (at most {goal.factor:g})"}


def _print_table(document: Mapping[str, Any]) -> None:
    """Print a line for each row, a column for each system, and the goals; then what each system is."""
    systems = document["systems"]
    width = max(len(system["title"]) for system in systems) + 2
    print(f"\n{'medians of {} rounds'.format(document['rounds']):56}", end="")
    print("".join(f"{system['title']:>{width}}" for system in systems))
    for row in document["rows"]:
        figure = row["figure"]
        print(f"{row['title'] + ' (' + UNITS[figure] + ')':56}", end="")
        for system in systems:
            value = row["medians"].get(system["key"], {}).get(figure)
            form = "{:,.0f}" if figure == "records_per_s" else "{:.2f}"
            print(f"{'-' if value is None else form.format(value):>{width}}", end="")
        print("   " + ", ".join(f"{goal['text']} {'yes' if goal['met'] else 'NO'}" for goal in row["goals"]))
    print()
    for system in systems:
        print(f"{system['title']:{width}}{system['version']}; {system['durability']}")


if __name__ == "__main__":
    main()

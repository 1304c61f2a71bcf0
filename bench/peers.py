"""Takhin beside its alternatives and beside its floors, in one run on one machine.

In each round every system carries out every load once, in turn, with the same payloads and its own Python
client in a process of its own; a figure is the median over the rounds. Beside a rate stands what a record
took of processors, in client and server. Kafka, Redis and NATS take part if they are installed: this program
installs nothing. It prints a table and writes peers.json and the chart peers.svg.
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
    "produce-100b-1000": (Goal("kafka", 1.3), Goal("redis", 8), Goal("nats-always", 10), Goal("apsw", 0.85)),
    "produce-100b-100": (Goal("redis", 3),),
    "produce-1kib-500": (Goal("kafka", 1), Goal("redis", 3.5)),
    "produce-100b-open": (Goal("kafka", 1),),
    "produce-1kib-open": (Goal("kafka", 1),),
    "consume-100b": (Goal("redis", 2.5),),
    "consume-1kib": (Goal("redis", 1),),
    "client-callbacks": (Goal("kafka", 1),),
    "read-100b": (Goal("kafka", 1.5),),
    "read-100b-together": (Goal("kafka", 1),),
    "read-1kib": (Goal("kafka", 0.9),),
    "produce-one": (Goal("echo", 0.9),),
    "unary-serial": (Goal("kafka", 1.4), Goal("echo", 1, plus=0.35)),
    "unary-256": (Goal("echo", 0.8),),
    "unary-half": (Goal("", 0, plus=5),),
    "arrival": (Goal("kafka", 1.4), Goal("echo", 2.5)),
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
            {
                "key": of.key,
                "title": of.title,
                "version": versions[of.key],
                "durability": of.durability,
                "synced": of.synced,
            }
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
            _judged(goal, figure, medians)
            for goal in GOALS.get(row.key, ())
            if not goal.peer or goal.peer in medians
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
    """Print each row, with a line for each system and the goals; then what each system is."""
    systems = document["systems"]
    width = max(len(system["title"]) for system in systems) + 2
    print(f"\nmedians of {document['rounds']} rounds; in brackets µs of processors a record, client + server")
    for row in document["rows"]:
        print(f"\n{row['title']} ({UNITS[row['figure']]})")
        for system in systems:
            if system["key"] in row["medians"]:
                print(f"    {system['title']:{width}}{_cell(row, system)}")
        for goal in row["goals"]:
            print(f"    {goal['text']}: {'yes' if goal['met'] else 'NO'}")
    print()
    for system in systems:
        print(f"{system['title']:{width}}{system['version']}; {system['durability']}")


def _cell(row: Mapping[str, Any], system: Mapping[str, Any]) -> str:
    """A system's figure of a row, with the cost of a record; marked if what it acknowledges may get lost."""
    of = row["medians"][system["key"]]
    value = of[row["figure"]]
    cell = f"{value:12,.0f}" if row["figure"] == "records_per_s" else f"{value:12.2f}"
    if "client_us" in of:
        cell += f"   ({of['client_us']:.2f} + {of['server_us']:.2f})"
    return cell if system["synced"] else f"{cell}   NOT synced"


if __name__ == "__main__":
    main()

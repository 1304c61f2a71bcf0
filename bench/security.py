"""What it costs to be safe and watched: TLS, and whatever else is in VARIANTS, beside a plain broker.

Each round starts one broker for each variant and one without, and gives each load to all of them in turn; the
order changes from round to round. A variant's figure is compared with the plain one's of the same round, so
what the machine does meanwhile is in both. The interval is that of bench.compare. Below each row stands the
CPU time of the whole load, of client and broker together: other work on the machine changes that less.

A variant is a function that prepares a data folder and says with which flags its broker is started and how a
client connects. To add one, write the function and its line in VARIANTS.

Usage: python -m bench.security --variant tls --row produce-100b-1000
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from bench.common import (
    Running,
    arguments,
    begin,
    new_data_dir,
    running,
    say_durability,
    serve_command,
    write_json,
)
from bench.compare import ROUNDS_MIN, interval
from bench.loads import Load, Results, Row, add_row_option, chosen_rows
from bench.peers import FIGURES, UNITS
from bench.process import cpu_seconds
from bench.takhin_client import PLAIN, Dial, measure
from takhin.access.rules import checked_rule
from takhin.access.tokens import new_token
from takhin.disk.access_file import AccessFile

CPU = "cpu"
"""The part of the results that has the CPU time."""
OTHER_RULES = 1_000
SELF_SIGNED = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout broker.key -out broker.pem"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """How a variant's broker is started, and how a client reaches it. flags: those of `takhin serve`."""

    listen: str = "127.0.0.1:0"
    flags: Sequence[str] = ()
    dial: Dial = PLAIN
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """prepare: called with the data folder, before its broker is started. cost_max: the share it may cost."""

    key: str
    title: str
    prepare: Callable[[Path], Prepared]
    cost_max: float


def _plain(_data_dir: Path) -> Prepared:
    return Prepared()


def _tls(data_dir: Path) -> Prepared:
    """A self-signed certificate on P-256, and a client that trusts it."""
    folder = data_dir.with_name(f"{data_dir.name}-certificates")
    folder.mkdir()
    subprocess.run(SELF_SIGNED.split(), cwd=folder, check=True, capture_output=True)
    certificate = folder / "broker.pem"
    flags = ("--tls-certificate-file", str(certificate), "--tls-key-file", str(folder / "broker.key"))
    dial = Dial(credentials=grpc.ssl_channel_credentials(certificate.read_bytes()))
    return Prepared("tls://127.0.0.1:0", flags, dial)


def _access(data_dir: Path) -> Prepared:
    """A token, and many rules that are not the ones needed."""
    text, token = new_token("bench", expires_at=0, note="", now=0)
    others = [
        checked_rule("bench", "write", "topic", f"other-{number}*", allow=bool(number % 2))
        for number in range(OTHER_RULES)
    ]
    mine = [checked_rule("bench", action, "topic", "*", allow=True) for action in ("read", "write", "admin")]
    with closing(AccessFile(data_dir)) as file:
        file.open()
        file.add_token(token, 1)
        file.change_rules([*others, *mine], [], len(others) + len(mine))
    return Prepared(flags=("--access-enabled",), dial=Dial(metadata=(("authorization", f"Bearer {text}"),)))


BASE = Variant("plain", "plain", _plain, 0.0)
VARIANTS = (
    Variant("tls", "TLS", _tls, 0.15),
    Variant("access", f"a token, {OTHER_RULES:,} rules", _access, 0.03),
)


def main() -> None:
    options = _options()
    rows = chosen_rows(options)
    chosen = [variant for variant in VARIANTS if variant.key in (options.variant or [variant.key])]
    about = begin(options)
    held = say_durability(options.folder)
    runs = _measured([BASE, *chosen], rows, options.repeat, options.folder)
    with_cpu = [each for row in rows for each in (row, Row(f"{row.key}-cpu", row.title, row.load, CPU))]
    compared = [_compared(row, variant, runs[row.load]) for row in with_cpu for variant in chosen]
    _print_table(compared, options.repeat)
    if options.json:
        document = {"machine": about, "durability": held, "repeat": options.repeat, "rows": compared}
        write_json(options.json, document)


def _options() -> argparse.Namespace:
    parser = arguments("security", repeat="rounds", times=10)
    add_row_option(parser)
    keys = [variant.key for variant in VARIANTS]
    parser.add_argument("--variant", action="append", choices=keys, help="only this one; may be repeated")
    return parser.parse_args()


Round = dict[str, Results]
"""The results of one load in one round, by the variant's key."""


def _measured(
    variants: Sequence[Variant], rows: Sequence[Row], rounds: int, folder: Path
) -> dict[Load, list[Round]]:
    """Give each load to all variants in turn; whoever came first comes last in the next round."""
    runs: dict[Load, list[Round]] = {row.load: [] for row in rows}
    for number in range(rounds):
        first = number % len(variants)
        order = [*variants[first:], *variants[:first]]
        with ExitStack() as stack:
            brokers = [(of, *stack.enter_context(_broker(of, folder))) for of in order]
            for load, found in runs.items():
                found.append({of.key: _synced(broker, load, dial) for of, broker, dial in brokers})
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return runs


@contextmanager
def _broker(variant: Variant, folder: Path) -> Iterator[tuple[Running, Dial]]:
    with new_data_dir(folder.resolve()) as data_dir:
        prepared = variant.prepare(data_dir)
        command = serve_command(data_dir, prepared.flags, listen=prepared.listen)
        with running(command, prepared.variables) as process:
            yield process, prepared.dial


def _synced(broker: Running, load: Load, dial: Dial) -> Results:
    """Sync the disk, so that what one broker left unsynced is not written during another's turn."""
    before = cpu_seconds(broker.pid) + time.process_time()
    results = measure(broker.address, load, dial)
    cpu_s = cpu_seconds(broker.pid) + time.process_time() - before
    os.sync()
    return {**results, CPU: {"cpu_s": cpu_s}}


def _compared(row: Row, variant: Variant, rounds: Sequence[Round]) -> dict[str, Any]:
    figure = "cpu_s" if row.part == CPU else FIGURES.get(row.key, "records_per_s")
    plain, other = ([of[key][row.part][figure] for of in rounds] for key in (BASE.key, variant.key))
    ratios = [with_it / without for without, with_it in zip(plain, other, strict=True)]
    costs = [1 - ratio if figure == "records_per_s" else ratio - 1 for ratio in ratios]
    low, high = interval(costs)
    return {
        "row": row.key,
        "title": row.title,
        "variant": variant.key,
        "figure": figure,
        "plain": statistics.median(plain),
        "with": statistics.median(other),
        "cost": statistics.median(costs),
        "interval": [low, high],
        "cost_max": variant.cost_max,
        "rounds": [
            {"plain": without, "with": with_it} for without, with_it in zip(plain, other, strict=True)
        ],
    }


def _print_table(compared: Sequence[Mapping[str, Any]], rounds: int) -> None:
    print(f"\n{f'medians of {rounds} rounds':68}{'plain':>12}{'with it':>12}{'cost':>8}{'95 % interval':>20}")
    for row in compared:
        form = "{:,.0f}" if row["figure"] == "records_per_s" else "{:.2f}"
        low, high = row["interval"]
        unit = UNITS.get(row["figure"], "CPU s")
        title = f"{row['variant']}: {row['title']} ({unit})"
        print(
            f"{title:68}{form.format(row['plain']):>12}{form.format(row['with']):>12}{row['cost']:>8.1%}"
            f"{f'{low:.1%} to {high:.1%}':>20}   may cost {row['cost_max']:.0%}"
        )
    if rounds < ROUNDS_MIN:
        print(f"\ntoo few rounds to say anything (at least {ROUNDS_MIN})")


if __name__ == "__main__":
    main()

"""The broker of the working tree beside that of another commit: interleaved runs, and how sure the result is.

The client is always the one of this tree. Each round starts a broker of each tree, so that differences from
process to process are in the figures too, and gives each load to one broker and then to the other; the next
round reverses the order. Figures are compared as ratios new/old of one round. The interval contains the
median ratio with 95 % confidence (a bootstrap over the rounds), and a difference is claimed only if the
interval does not contain 1. Usage: python -m bench.compare HEAD --row produce-100b-1000
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import arguments, begin, new_data_dir, running, say_durability, serve_command, write_json
from bench.loads import Load, Results, Row, add_row_option, chosen_rows
from bench.peers import FIGURES, UNITS
from bench.takhin_client import measure

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FLAGS = ("-P",)  # without it the current folder would come before the tree's
WHICH = "import takhin, takhin.schema; print(takhin.__file__, takhin.schema.__file__, sep='\\n')"
NATIVE = "_native*.so"

ROUNDS_MIN = 6
"""With fewer rounds, the median lies outside of the observed range more often than once in twenty times."""
RESAMPLES = 10_000
SEED = 20
TAIL = 0.005
"""What is cut off at either end of the resampled medians. The textbook says 0.025, but with so few rounds its
intervals miss the truth in 6 to 11 of 100 simulated comparisons of 6 to 20 rounds. With 0.005 they miss it
in 2 to 5 of 100, which is what 95 % promises.
"""


@dataclass(frozen=True, slots=True)
class Tree:
    """The code of a broker. folder: contains the package takhin, with the schema in it. name: for people."""

    name: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that make Python and all its child processes take this tree's code."""
        return {"PYTHONPATH": str(self.folder)}


Pair = tuple[Results, Results]
"""The results of the old and the new broker for one load in one round."""


def main() -> None:
    options = _options()
    rows = chosen_rows(options)
    about = begin(options)
    held = say_durability(options.folder)
    newer = commit_tree(options.new) if options.new else working_tree()
    with commit_tree(options.ref) as old, newer as new:
        for age, tree in (("old", old), ("new", new)):
            verify(tree)
            path = "" if any((tree.folder / "takhin").glob(NATIVE)) else ", without the native library"
            print(f"{age}: {tree.name}{path}", flush=True)
        runs = _measure((old, new), rows, options.repeat, options.folder)
    compared = [_compared(row, runs[row.load]) for row in rows]
    _print_table(compared, options.repeat)
    if options.json:
        trees = {"old": old.name, "new": new.name, "repeat": options.repeat}
        write_json(options.json, {"machine": about, "durability": held, **trees, "rows": compared})


def _options() -> argparse.Namespace:
    parser = arguments("compare", repeat="rounds, best an even number", times=10)
    add_row_option(parser)
    parser.add_argument("ref", metavar="REF", help="the old commit, to compare with")
    parser.add_argument(
        "--with", dest="new", metavar="REF", help="the new commit, instead of the working tree"
    )
    return parser.parse_args()


# Trees


@contextmanager
def commit_tree(ref: str) -> Iterator[Tree]:
    """A worktree of the commit, which is removed after the block."""
    commit = _git("rev-parse", "--short", "--verify", f"{ref}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="takhin-compare-") as scratch:
        folder = Path(scratch, "tree")
        try:
            _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
            # An installed takhin.schema lies elsewhere; one that lies inside takhin takes precedence.
            (folder / "takhin" / "schema").symlink_to(folder / "schema")
            _build_native(folder)
            yield Tree(f"{commit} ({ref})", folder)
        finally:
            remove = ["git", "-C", ROOT, "worktree", "remove", "--force", folder]
            subprocess.run(remove, capture_output=True, check=False)  # the worktree may not have been made


def _build_native(folder: Path) -> None:
    """Build the native library of a commit that has one, as `make` did for the working tree."""
    if (folder / "setup.py").exists():
        build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(build, cwd=folder, capture_output=True, check=True)


@contextmanager
def working_tree() -> Iterator[Tree]:
    """A copy of the code as it is now, so that edits during the run do not change a later round."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "takhin", "schema")
    caches = shutil.ignore_patterns("__pycache__")
    with tempfile.TemporaryDirectory(prefix="takhin-compare-") as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "takhin", folder / "takhin", ignore=caches)
        shutil.copytree(ROOT / "schema", folder / "takhin" / "schema", ignore=caches)
        yield Tree(f"the working tree, {commit} {'with changes' if changed else 'as committed'}", folder)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)} failed")
    return done.stdout.strip()


def verify(tree: Tree) -> None:
    """Start a process as the broker will be started, and make sure that it runs the code of this tree."""
    command = [sys.executable, *PYTHON_FLAGS, "-c", WHICH]
    done = subprocess.run(
        command, env=os.environ | tree.variables, stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        if not Path(line).is_relative_to(tree.folder):
            raise SystemExit(f"a broker of {tree.name} would run {line}, which is not of {tree.folder}")


# Rounds


def _measure(
    trees: tuple[Tree, Tree], rows: Sequence[Row], rounds: int, folder: Path
) -> dict[Load, list[Pair]]:
    """Give each load to both trees in turn, and repeat all of that as often as there are rounds."""
    runs: dict[Load, list[Pair]] = {row.load: [] for row in rows}
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        with ExitStack() as stack:
            addresses = {of: stack.enter_context(_broker(trees[of], folder)) for of in order}
            for load, pairs in runs.items():
                results = {of: _synced(addresses[of], load) for of in order}
                pairs.append((results[0], results[1]))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return runs


@contextmanager
def _broker(tree: Tree, folder: Path) -> Iterator[str]:
    with (
        new_data_dir(folder.resolve()) as data_dir,
        running(serve_command(data_dir, python=PYTHON_FLAGS), tree.variables) as process,
    ):
        yield process.address


def _synced(address: str, load: Load) -> Results:
    """Sync the disk, so that what one broker left unsynced is not written during the other's turn."""
    results = measure(address, load)
    os.sync()
    return results


# Figures


def _compared(row: Row, pairs: Sequence[Pair]) -> dict[str, Any]:
    figure = FIGURES.get(row.key, "records_per_s")
    old, new = ([pair[of][row.part][figure] for pair in pairs] for of in (0, 1))
    ratios = [after / before for before, after in zip(old, new, strict=True)]
    low, high = interval(ratios)
    return {
        "row": row.key,
        "title": row.title,
        "figure": figure,
        "old": statistics.median(old),
        "new": statistics.median(new),
        "ratio": statistics.median(ratios),
        "interval": [low, high],
        "verdict": verdict(low, high, more_is_better=figure == "records_per_s", rounds=len(pairs)),
        "rounds": [{"old": before, "new": after} for before, after in zip(old, new, strict=True)],
    }


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The bounds that contain the median with 95 % confidence: a seeded percentile bootstrap, see TAIL."""
    choices = random.Random(SEED).choices
    medians = sorted(statistics.median(choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    beyond = round(RESAMPLES * TAIL)
    return medians[beyond], medians[-1 - beyond]


def verdict(low: float, high: float, *, more_is_better: bool, rounds: int) -> str:
    """What the interval of the ratio new/old means, in words."""
    if rounds < ROUNDS_MIN:
        return f"too few rounds to say (at least {ROUNDS_MIN})"
    if low <= 1 <= high:
        return "no difference shown"
    return "faster" if (low > 1) == more_is_better else "slower"


def _print_table(compared: Sequence[Mapping[str, Any]], rounds: int) -> None:
    print(f"\n{f'medians of {rounds} rounds':56}{'old':>12}{'new':>12}{'new/old':>9}{'95 % interval':>18}")
    for row in compared:
        rate = row["figure"] == "records_per_s"
        form = "{:,.0f}" if rate else "{:.2f}"
        title = f"{row['title']} ({UNITS[row['figure']]})"
        low, high = row["interval"]
        print(
            f"{title:56}{form.format(row['old']):>12}{form.format(row['new']):>12}{row['ratio']:>9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}   {row['verdict']}{'' if rate else ' (less is better)'}"
        )
    print("\nrecords/s: more is better; ms: less is better. Of twenty rows without any difference, one is")
    print("called faster or slower by chance: a claim wants the row that it is about, named beforehand.")


if __name__ == "__main__":
    main()

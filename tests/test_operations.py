"""docs/operations.md has a runbook for each reason that health gives; the systemd unit is hardened."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin.config import OPTIONS
from takhin.disk import descriptors
from takhin.settings import Settings
from test_tidy import ROOT, parsed, python_files

PAGE = (ROOT / "docs/operations.md").read_text()
UNIT = ROOT / "deploy/systemd/takhin.service"
EXPOSURE_MAX = 1.1
"""What `systemd-analyze security` makes of the unit: 0 is best, 10 the worst."""
TELLS = re.compile(r"\b_?(troubles|concerns)\b")
WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")


def first_word(node: ast.AST) -> str | None:
    """The first word of a text: `disk_full`, or `wal_large` of f"wal_large {name}"."""
    text = node.values[0] if isinstance(node, ast.JoinedStr) else node
    if isinstance(text, ast.Constant) and isinstance(text.value, str) and (found := WORD.match(text.value)):
        return found[0]
    return None


def given_in(tree: ast.Module) -> Iterator[ast.AST]:
    """Under what a module gives a reason for poor health.

    Troubles are begun (storage/sqlite/troubles.py), concerns are put into Broker.concerns.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr="begin"), args=[name, _]):
                if ast.unparse(of).endswith("troubles"):
                    yield name
            case ast.Assign(targets=[ast.Subscript(value=of, slice=name)]):
                if ast.unparse(of).endswith(("troubles", "concerns")):
                    yield name


def names_in(tree: ast.Module) -> Iterator[str]:
    """The names of a module's reasons, and "?" for one that comes from elsewhere."""
    values: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):  # trouble, left = "…", 5
                target, value = target.elts[0], value.elts[0]
            values.setdefault(ast.unparse(target), []).append(value)
    for name in given_in(tree):
        found = [first_word(value) for value in (name, *values.get(ast.unparse(name), ()))]
        yield from filter(None, found) if any(found) else "?"


PASSED_ON = {
    "takhin/storage/sqlite/catalogue.py": 1,  # those of a dict that it has filled before
    "takhin/storage/sqlite/compactor.py": 1,  # the one that Waits is made with, below
}
"""Where a name comes from elsewhere, and how often."""


def reasons() -> set[str]:
    found = {"compaction_waits"}
    telling = (path for path in python_files("takhin") if TELLS.search(path.read_text()))
    for path, tree in map(parsed, telling):
        names = list(names_in(tree))
        assert names.count("?") == PASSED_ON.get(path, 0), path
        found |= set(names) - {"?"}
    return found


def test_each_reason_has_a_runbook() -> None:
    """Each name under which something can be wrong is a heading of the runbook, and no other is."""
    runbook = PAGE.split("\n## Runbook", 1)[1].split("\n## ", 1)[0]
    assert sorted(re.findall(r"^### (\w+)$", runbook, re.MULTILINE)) == sorted(reasons())


def test_a_reason_is_seen() -> None:
    """The search finds a name that is given directly, by a constant, by a variable, and as a concern."""
    text = """
LOW = "disk_low"
def f(self):
    trouble = f"wal_large {self.name}"
    self._shared.troubles.begin(trouble, "…")
    self._troubles.begin(LOW, "…")
    troubles.begin("descriptors", "…")
    self._broker.concerns[name] = "…"
"""
    assert sorted(names_in(ast.parse(text))) == ["?", "descriptors", "disk_low", "wal_large"]


def test_the_page_names_what_there_is() -> None:
    """Settings and files that the page and the unit name exist."""
    keys = set(re.findall(r"`((?:storage|rpc|groups|topics|metrics|tls)\.[a-z_]+)\b", PAGE))
    assert keys <= OPTIONS.keys()
    variables = {option.variable for option in OPTIONS.values()} | {"TAKHIN_CONFIG", "TAKHIN_SERVER"}
    assert set(re.findall(r"\bTAKHIN_[A-Z_]+", PAGE + UNIT.read_text())) <= variables
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for path in re.findall(r"\bdeploy/[\w./-]+\w", PAGE):
        assert (ROOT / path).exists(), path


def unit_setting(name: str) -> str:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)[-1]


def test_the_unit_fits_the_settings() -> None:
    """It waits longer for the end than a stop may take, and gives the descriptors that the defaults need."""
    settings = Settings()
    assert int(unit_setting("TimeoutStopSec").removesuffix("s")) > 3 * settings.shutdown_grace_ms / 1_000
    assert int(unit_setting("LimitNOFILE")) >= descriptors.needed(
        connections=settings.rpc.connections_max, open_partitions=settings.storage.open_partitions_max
    )


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze: scripts/install-packages tests")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/usr/local/lib/takhin/bin/takhin", sys.executable))
    return path


def analyze(*args: object) -> str:
    """Run systemd-analyze, which must be content; what it says."""
    line = ["systemd-analyze", "--no-pager", *map(str, args)]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_systemd_takes_the_unit(unit) -> None:
    """`systemd-analyze verify` finds nothing to say: no unknown key, no value that is not understood."""
    assert analyze("verify", "--man=no", unit) == ""


def test_the_unit_is_hardened(unit, figures) -> None:
    """`systemd-analyze security` gives it at most EXPOSURE_MAX of 10."""
    said = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}", unit)
    found = re.search(r"Overall exposure level for takhin.service: ([\d.]+)", said)
    assert found is not None, said
    figures(f"systemd-analyze security: {found[1]} of 10")
    assert float(found[1]) <= EXPOSURE_MAX

"""The sessions in the documentation: each command is run as it stands, and prints what stands below it.

A session is an indented block with lines that begin with `$ `. Times are not compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, environment

DOCS = Path(__file__).parents[1] / "docs"
SESSIONS = ["sql.md"]
pytest_plugins = ["pytester"]
TIMES = re.compile(r"\b\d{13}\b|\b\d+\.\d\d s\b|\b\d{4}-\d\d-\d\dT[\d:.]+Z")


def session(page: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a page, in order."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", page, re.MULTILINE)
    found: list[tuple[str, str]] = []
    for block in blocks:
        text = re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip("\n")
        found += map(command_and_output, re.split(r"^\$ ", text, flags=re.MULTILINE)[1:])
    return found


def command_and_output(text: str) -> tuple[str, str]:
    """A command goes on while a line ends with a backslash, or a quote is open."""
    lines = text.splitlines()
    end = 1
    while lines[end - 1].endswith("\\") or "\n".join(lines[:end]).count('"') % 2:
        end += 1
    return "\n".join(lines[:end]), "\n".join(lines[end:]).strip("\n")


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name, tmp_path):
    """Every command of a page prints what the page says, on stdout or stderr."""
    commands = session((DOCS / name).read_text())
    assert len(commands) > 3
    with Broker(tmp_path / "data") as broker:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command, expected in commands:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment(server=broker.address) | {"PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            assert TIMES.sub("…", done.stdout.strip("\n")) == TIMES.sub("…", expected), command


def test_testing_page(pytester):
    """The files on docs/testing.md are a test suite that passes, without a warning."""
    page = (DOCS / "testing.md").read_text()
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?=\n* {4}))+", page, re.MULTILINE)
    text = "\n".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    files = re.split(r"^# (\w+\.py)$", text, flags=re.MULTILINE)[1:]
    for name, content in zip(files[::2], files[1::2], strict=True):
        (pytester.path / name).write_text(content)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=4)

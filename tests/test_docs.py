"""The documentation's examples: each is run unchanged, page by page, against a broker of its own.

A session is an indented block with lines that begin with `$ `; the lines below a command are its output.
Times are not compared. A block of Python runs to its end without an error. A line that asks nothing of the
shell is the command's alone, and forked like the blocks of Python; the others are started.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import forked
from blackbox.broker_process import Broker, environment

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/client.md",
    "docs/commands.md",
    "docs/consume.md",
    "docs/export.md",
    "docs/groups.md",
    "docs/keeping-data.md",
    "docs/produce.md",
    "docs/sql.md",
    "docs/transform.md",
]
BLOCKS = re.compile(
    r"^```python\n(?P<python>.*?)^```$|(?P<session>(?:^ {4}[^\n]*\n|^\n(?= {4}))+)", re.DOTALL | re.MULTILINE
)
pytest_plugins = ["pytester"]
TOPIC_MADE = re.compile(r"""^    \$ takhin topics create (\S+)|create_topic\("([\w.-]+)\"""", re.MULTILINE)
QUOTED = re.compile(r"""'[^']*'|"[^"$`\\]*\"""")
OF_THE_SHELL = re.compile(r"""["$`\\'|&;<>()\[\]{}*?#~!]""")
TIMES = re.compile(r"\b\d{13}\b|\b\d+\.\d\d s\b|\b\d{4}-\d\d-\d\dT[\d:.]+Z")
SERVER = "127.0.0.1:9092"


class Example(NamedTuple):
    """A command line and what it prints, or None for any output."""

    command: list[str]
    text: str
    printed: str | None


def examples(page: str, server: str) -> Iterator[Example]:
    for block in BLOCKS.finditer(page.replace(SERVER, server)):
        if text := block["python"]:
            yield Example([sys.executable, "-c", text], text, None)
            continue
        session = re.sub(r"^ {4}", "", block["session"], flags=re.MULTILINE).strip("\n")
        for text in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            command, printed = command_and_output(text)
            yield Example(run_by(command), command, printed)


def run_by(text: str) -> list[str]:
    """The command line that does what a shell does with the text."""
    if text.startswith("takhin ") and not OF_THE_SHELL.search(QUOTED.sub("", text)):
        return [sys.executable, "-m", *shlex.split(text)]
    return ["bash", "-c", text]


def test_no_page_makes_a_topic_that_another_one_has_made():
    """Whoever follows the pages one after the other, with one broker, is never told that a topic exists."""
    made = [
        name
        for page in PAGES
        for groups in TOPIC_MADE.findall((ROOT / page).read_text())
        for name in groups
        if name
    ]
    assert sorted(made) == sorted(set(made))
    assert len(made) >= len(PAGES) - 1


def command_and_output(text: str) -> tuple[str, str]:
    """Collect the lines of a command, which continues after a backslash or while a quote is open."""
    lines = text.splitlines()
    end = 1
    while lines[end - 1].endswith("\\") or "\n".join(lines[:end]).count('"') % 2:
        end += 1
    return "\n".join(lines[:end]), "\n".join(lines[end:]).strip("\n")


@pytest.mark.parametrize("name", PAGES)
def test_examples(name, tmp_path):
    """Every example of a page runs and prints what the page says, on stdout or stderr."""
    page = (ROOT / name).read_text()
    for tool in ("jq", "sqlite3"):
        if re.search(rf"(\$|\|) {tool} ", page) and shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}: scripts/install-packages tests")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = 0
    (tmp_path / ".venv").symlink_to(sys.prefix)
    # Nothing is compacted by itself before a page has it compacted, however long the page takes.
    with Broker(tmp_path / "data", topics_compaction_look_ms=600_000) as broker:
        for example in examples(page, broker.address):
            done = forked.run(
                example.command,
                cwd=tmp_path,
                env=environment(server=broker.address) | {"PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            if example.printed is None:
                assert done.returncode == 0, f"{example.text}\n{done.stdout}"
            else:
                said = TIMES.sub("…", done.stdout.strip("\n"))
                assert said == TIMES.sub("…", example.printed), example.text
            ran += 1
    assert ran > 0


@pytest.mark.soak
def test_tls_page(tmp_path):
    """The walk-through of docs/tls.md, with the broker that it starts, on ports that are free."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl: scripts/install-packages tests")
    page = (ROOT / "docs/tls.md").read_text()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        page = page.replace("9093", str(one.getsockname()[1])).replace("9094", str(two.getsockname()[1]))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = environment() | {"PATH": path, "TAKHIN_CONTEXTS": str(tmp_path / "contexts.toml")}
    with ExitStack() as stack:
        for command, text, printed in examples(page, SERVER):
            if text.startswith("takhin serve"):
                line = ["bash", "-c", f"exec {text}"]
                serving = stack.enter_context(
                    subprocess.Popen(line, cwd=tmp_path, env=environ, stdout=subprocess.PIPE)
                )
                stack.callback(serving.terminate)
                assert b"ready" in serving.stdout.readline()
                continue
            said = subprocess.run(
                command,
                cwd=tmp_path,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            ).stdout
            if printed is not None:
                assert TIMES.sub("…", said.strip("\n")) == TIMES.sub("…", printed), text


def run_files(pytester, page_name):
    """Run the files on a page, which are a test suite, with warnings as errors; returns the outcomes."""
    page = (ROOT / "docs" / page_name).read_text()
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?=\n* {4}))+", page, re.MULTILINE)
    text = "\n".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks)
    files = re.split(r"^# (\w+\.py)$", text, flags=re.MULTILINE)[1:]
    for name, content in zip(files[::2], files[1::2], strict=True):
        (pytester.path / name).write_text(content)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    )
    return pytester.runpytest_subprocess("-p", "no:cacheprovider").parseoutcomes()


def test_testing_page(pytester):
    """The files on docs/testing.md are a test suite that passes without a warning."""
    assert run_files(pytester, "testing.md") == {"passed": 4}


def test_engines_page(pytester):
    """The files on docs/engines.md pass; what the memory engine does not promise is skipped by name."""
    outcomes = run_files(pytester, "engines.md")
    assert outcomes.keys() == {"passed", "skipped"}
    assert outcomes["passed"] > 100

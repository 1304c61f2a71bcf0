"""Words that readers stumble over, in code and documents, as far as a machine can find them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from test_tidy import ROOT, files_of_the_project, parsed, python_files

INSTEAD = {
    r"\banew\b": "again, or SQLite's own word: a write-ahead log is restarted",
    r"\bwhich see\b": "see …",
    r"\bthose of then\b": "those of the first time",
    r"\b(?:is|are|was|were) told (?:by|of|apart|from)\b": "say who says what: `recognised by`",
    r"\bas it is told\b": "say who says what",
    r"\bthat is told\b": "say who says what",
    r"\bfor whom\b": "who is it for? begin the sentence with them",
    r"\bsuch a one\b": "name it",
    r"\bthe which\b": "which",
}
SUFFIXES = {".py", ".md", ".proto", ".toml", ".sql"}
OWN = "tests/test_words.py"


def faults(path: str, text: str) -> list[str]:
    """A line for each word that has a better one."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for word, better in INSTEAD.items():
            if (match := re.search(word, line, re.IGNORECASE)) is not None:
                found.append(f"{path}:{number} says {match.group()!r}: {better}")
    return found


def logger_faults(path: str, tree: ast.Module) -> Iterator[str]:
    """Loggers under another name: `log` is a partition's log."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=called)):
                if ast.unparse(called).endswith(("get_logger", "getLogger")) and name != "logger":
                    yield f"{path}:{node.lineno} calls a logger {name}: it is called logger"


def test_words() -> None:
    """No file of the project has a word from the list."""
    found = []
    for path in files_of_the_project():
        name = str(path.relative_to(ROOT))
        if path.suffix in SUFFIXES and name != OWN and not name.startswith("takhin/v1/"):
            found += faults(name, path.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["The log is begun anew.", "As `read`, which see.", "It is told by its id."])
def test_a_word_is_seen(line: str) -> None:
    """The rule fails on what it forbids."""
    assert faults("x.py", line)


def test_loggers() -> None:
    """Loggers are called `logger`."""
    faults = [fault for path in python_files("takhin") for fault in logger_faults(*parsed(path))]
    assert not faults, "\n".join(faults)


def test_a_logger_called_log_is_seen() -> None:
    """The rule of loggers fails on what it forbids."""
    assert list(logger_faults("takhin/x.py", ast.parse("log = structlog.get_logger()")))

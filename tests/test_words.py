"""Words that readers stumble over, in code and documents: what a machine can find of style.md's section on English."""

from __future__ import annotations

import re

import pytest

from test_tidy import ROOT, files_of_the_project

INSTEAD = {
    r"\banew\b": "again, or SQLite's own word: a write-ahead log is restarted",
    r"\bbegun again from\b": "restarted",
    r"\bwhich see\b": "see …",
    r"\bthose of then\b": "those of the first time",
    r"\b(?:is|are|was|were) told (?:by|of|apart|from)\b": "say who says what: `the witness shows …`, `recognised by`",
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

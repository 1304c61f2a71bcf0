"""The README's settings table has exactly what takhin/settings has; its drawing names files there are."""

import re
from pathlib import Path

from takhin.config import OPTIONS, Option
from takhin.kinds import Choice

README = Path(__file__).parents[1] / "README.md"
ROW = re.compile(r"^\| `[a-z_.]+` \| .* \|$", re.MULTILINE)
MINUTE_MS = 60_000
MIB_BYTES = 1 << 20


def in_large_units(key: str, value: object) -> str:
    """` (10 MiB)` or ` (15 min)` for a number that a person would rather read so, else nothing."""
    unit = re.search(r"_(bytes|ms)(_max|_min)?$", key)
    if not unit or not isinstance(value, int):
        return ""
    size, name = (MIB_BYTES, "MiB") if unit[1] == "bytes" else (MINUTE_MS, "min")
    return f" ({value // size} {name})" if value and value % size == 0 else ""


def row(key: str, option: Option) -> str:
    doc = option.help if isinstance(option.kind, Choice) else option.doc
    default = f"`{option.shown_default}`" if option.shown_default else "none"
    return f"| `{key}` | {default}{in_large_units(key, option.default)} | {doc} |"


def test_settings_table_is_complete_and_true() -> None:
    """Every setting is in the README with its key, default, unit and doc, in the order of the tree."""
    rows = [match[0] for match in ROW.finditer(README.read_text())]
    expected = [row(key, option) for key, option in OPTIONS.items()]
    assert rows == expected, "\n".join(["the table should be:", *expected])


def test_files_of_the_drawing_exist() -> None:
    """Whoever follows a produce request through the files finds each of them."""
    drawing = README.read_text().split("## The path of a produce request", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"\w+\.py", drawing))
    assert named
    assert named <= {path.name for path in (README.parent / "takhin").rglob("*.py")}

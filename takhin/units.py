"""Numbers with units, such as 7d and 100MB, as people write them. Knows what they are in ms and in bytes."""

from __future__ import annotations

import re

UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
UNIT_BYTES = {f"{letter}B": 1_000**n for n, letter in enumerate("kMGT", 1)} | {
    f"{letter}iB": 1 << 10 * n for n, letter in enumerate("KMGT", 1)
}
PART = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
TIME = re.compile(rf"(?:{PART.pattern})+")
SIZE = re.compile(r"([0-9]{1,12}) ?([kMGT]B|[KMGT]iB)")


def milliseconds(text: str) -> int | None:
    """A time such as 7d, 90s or 1h30m in ms; None if the text is not one."""
    if not TIME.fullmatch(text):
        return None
    return sum(int(count) * UNIT_MS[unit] for count, unit in PART.findall(text))


def plain(name: str, text: str) -> str:
    """What to write instead of a number with a unit, by the unit in `name`: "in ms: 604800000".

    Empty for a text without a known unit, and for a name without ms and bytes.
    """
    words = re.split(r"[._]", name)
    if "ms" in words and (found := milliseconds(text)) is not None:
        return f"in ms: {found}"
    if "bytes" in words and (size := SIZE.fullmatch(text)):
        return f"in bytes: {int(size[1]) * UNIT_BYTES[size[2]]}"
    return ""

"""Pieces of sentences: a caller's text, a list of names, the name that was probably meant, numbers, sizes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SHOWN_CHARS_MAX = 80
"""Characters of a caller's text that an error repeats. Not a setting: it only keeps sentences readable."""


NEAR = 0.6
"""How alike two names are if one may have been meant by the other; see `nearest`."""


def shown(text: str) -> str:
    """A caller's text as an error may repeat it: quoted, escaped, cut at 80 characters."""
    if len(text) <= SHOWN_CHARS_MAX:
        return ascii(text)
    return f"{text[:SHOWN_CHARS_MAX]!a}… ({len(text)} characters)"


def listed(words: Sequence[str], last: str) -> str:
    """The words with commas, and `last` ("and", "or") before the last one."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.0) -> str | None:
    """The known word that is spelled most like `word`.

    cutoff: how alike the two must be, from 0 to 1 (see difflib). If no known word is, the result is None.
    """
    return next(iter(difflib.get_close_matches(word[:SHOWN_CHARS_MAX], list(known), 1, cutoff)), None)


def counted(number: int, noun: str) -> str:
    """1 record, 2 records."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(size_bytes: float) -> str:
    """512 bytes, 1.5 GB."""
    if size_bytes < 1_000:
        return f"{size_bytes:.0f} bytes"
    size, units = float(size_bytes), ["kB", "MB", "GB", "TB"]
    while (size := size / 1_000) >= 1_000 and len(units) > 1:
        del units[0]
    return f"{size:.1f} {units[0]}"

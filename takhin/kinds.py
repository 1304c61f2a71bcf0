"""The kinds of values that settings and topic configs have: what each may be, and how it is written.

A kind reads both the text of a flag, a variable or a topic config, and a value of a TOML file. It knows
neither the name of what it reads nor where that came from: see `takhin.config` and `takhin.topic_configs`.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from takhin.model import INT64_MAX, NO_LIMIT
from takhin.sentences import listed

T = TypeVar("T")

WHOLE = re.compile(r"-?[0-9]{1,19}")
SHARE_DIGITS = 6
SHARE = re.compile(rf"[01](\.[0-9]{{1,{SHARE_DIGITS}}})?")


class Secret:
    """A text that must not be seen. Only `reveal` returns it; repr, str and format show a mask.

    file: the file that it was read from, if any. It may be seen.
    """

    __slots__ = ("_file", "_text")
    MASK: ClassVar[str] = "********"

    def __init__(self, text: str = "", *, file: Path | None = None) -> None:
        self._text = text
        self._file = file

    @property
    def file(self) -> Path | None:
        return self._file

    def reveal(self) -> str:
        """The text itself. Pass it on; do not put it into an error, a log line or a file."""
        return self._text

    def __bool__(self) -> bool:
        """False if there is no secret."""
        return bool(self._text)

    def __repr__(self) -> str:
        return f"Secret({self.MASK if self._text else ''})"

    def __eq__(self, other: object) -> bool:
        """Equal texts, compared in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


class Kind(ABC, Generic[T]):
    """What a value may be. A subclass is a frozen dataclass whose fields are the bounds."""

    __slots__ = ()
    metavar: ClassVar[str] = "TEXT"
    """Stands for the value in the help of a flag."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The rest of the sentence "KEY must be …"."""

    @property
    def note(self) -> str:
        """The part of `allowed` that stands in brackets behind a doc, if it is worth it."""
        return ""

    @abstractmethod
    def parse(self, raw: object) -> T:
        """The value that a text, or a value of a TOML file, stands for.

        Raises ValueError with the rest of the sentence "KEY must be …". It does not repeat `raw`.
        """

    def text(self, value: T) -> str:
        """The value as text that `parse` takes."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Whole(Kind[int]):
    """A whole number from `least` to `most`; with `no_limit` also -1, which means that there is no limit."""

    metavar: ClassVar[str] = "N"
    least: int = 0
    most: int = INT64_MAX
    no_limit: bool = False

    @property
    def allowed(self) -> str:
        beside = f", or {NO_LIMIT} for no limit" if self.no_limit else ""
        return f"a whole number from {self.least} to {self.most}{beside}"

    @property
    def note(self) -> str:
        beside = f", or {NO_LIMIT} for no limit" if self.no_limit else ""
        return f"at least {self.least}{beside}"

    def parse(self, raw: object) -> int:
        if isinstance(raw, str) and WHOLE.fullmatch(raw):
            raw = int(raw)
        # bool is an int to Python; it is not to the person who wrote `true`.
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise ValueError(self.allowed)  # noqa: TRY004  see `Kind.parse`
        if not (self.least <= raw <= self.most or (self.no_limit and raw == NO_LIMIT)):
            raise ValueError(self.allowed)
        return raw


@dataclass(frozen=True, slots=True)
class Share(Kind[float]):
    """A number from 0 to 1 with at most six decimals, such as 0.5."""

    metavar: ClassVar[str] = "0…1"

    @property
    def allowed(self) -> str:
        return f"a number from 0 to 1 with at most {SHARE_DIGITS} decimals"

    @property
    def note(self) -> str:
        return "0 to 1"

    def parse(self, raw: object) -> float:
        if isinstance(raw, str) and SHARE.fullmatch(raw):
            raw = float(raw)
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise ValueError(self.allowed)  # noqa: TRY004  see `Kind.parse`
        if not 0 <= raw <= 1 or round(raw, SHARE_DIGITS) != raw:
            raise ValueError(self.allowed)
        return float(raw)

    def text(self, value: float) -> str:
        whole, _, decimals = f"{value:.{SHARE_DIGITS}f}".partition(".")
        return f"{whole}.{decimals.rstrip('0') or '0'}"


@dataclass(frozen=True, slots=True)
class Bool(Kind[bool]):
    """True or false, in any case of letters."""

    metavar: ClassVar[str] = "true|false"

    @property
    def allowed(self) -> str:
        return "true or false"

    def parse(self, raw: object) -> bool:
        if isinstance(raw, str) and raw.lower() in {"true", "false"}:
            return raw.lower() == "true"
        if not isinstance(raw, bool):
            raise ValueError(self.allowed)  # noqa: TRY004  see `Kind.parse`
        return raw

    def text(self, value: bool) -> str:  # noqa: FBT001  it is the value
        return str(value).lower()


@dataclass(frozen=True, slots=True)
class Text(Kind[str]):
    """Text on one line. check: raises ValueError, as `parse` does, for a text that will not do."""

    check: Callable[[str], object] | None = None

    @property
    def allowed(self) -> str:
        return "text without control characters, and not empty"

    def parse(self, raw: object) -> str:
        # Control characters would break log lines; surrogates (Cs) are bytes that are not UTF-8.
        if not isinstance(raw, str) or not raw or any(unicodedata.category(c) in {"Cc", "Cs"} for c in raw):
            raise ValueError(self.allowed)
        if self.check is not None:
            self.check(raw)
        return raw


@dataclass(frozen=True, slots=True)
class Choice(Kind[T]):
    """One of a few values, each with a name: a text, or a member of a StrEnum."""

    choices: tuple[T, ...]

    @property
    def allowed(self) -> str:
        names = [str(choice) for choice in self.choices]
        return listed(names, "or") if len(names) <= 2 else f"one of {', '.join(names)}"

    @property
    def note(self) -> str:
        return ", ".join(map(str, self.choices))

    def parse(self, raw: object) -> T:
        for choice in self.choices:
            if isinstance(raw, str) and raw == str(choice):
                return choice
        raise ValueError(self.allowed)


@dataclass(frozen=True, slots=True)
class FilePath(Kind[Path]):
    """The path of a file or a folder, which need not exist. If relative, it is shown beginning with a dot."""

    metavar: ClassVar[str] = "PATH"

    @property
    def allowed(self) -> str:
        return Text().allowed

    def parse(self, raw: object) -> Path:
        return Path(Text().parse(str(raw) if isinstance(raw, Path) else raw))

    def text(self, value: Path) -> str:
        path = str(value)
        return path if value.is_absolute() or path.startswith(".") else f"./{path}"


@dataclass(frozen=True, slots=True)
class NoneOr(Kind[T | None]):
    """A value of another kind, or none: the empty text."""

    inner: Kind[T]

    @property
    def allowed(self) -> str:
        return f"{self.inner.allowed}, or empty for none"

    def parse(self, raw: object) -> T | None:
        return None if raw is None or raw == "" else self.inner.parse(raw)

    def text(self, value: T | None) -> str:
        return "" if value is None else self.inner.text(value)


@dataclass(frozen=True, slots=True)
class SecretText(Kind[Secret]):
    """A text that is shown nowhere. A setting of this kind may also stand in a file: see `takhin.config`."""

    metavar: ClassVar[str] = "SECRET"

    @property
    def allowed(self) -> str:
        return Text().allowed

    @property
    def note(self) -> str:
        return "better given as a file: others may see flags and variables"

    def parse(self, raw: object) -> Secret:
        return raw if isinstance(raw, Secret) else Secret(Text().parse(raw))

    def text(self, value: Secret) -> str:
        """A mask, or nothing if there is no secret. The one text of a kind that does not parse back."""
        return Secret.MASK if value else ""


@dataclass(frozen=True, slots=True)
class ListOf(Kind[tuple[T, ...]]):
    """Values of one kind, each at most once: with commas in text, an array in TOML. Empty text is none.

    least: how many there must be.
    """

    metavar: ClassVar[str] = "A,B,…"
    item: Kind[T]
    least: int = 0

    @property
    def allowed(self) -> str:
        return f"a list with commas, each item {self.item.allowed}"

    @property
    def note(self) -> str:
        return f"a list with commas: {self.item.note}" if self.item.note else "a list with commas"

    def parse(self, raw: object) -> tuple[T, ...]:
        if isinstance(raw, str):
            raw = [item.strip(" ") for item in raw.split(",")] if raw else []
        if not isinstance(raw, Sequence):
            raise ValueError(self.allowed)  # noqa: TRY004  see `Kind.parse`
        try:
            parsed = tuple(self.item.parse(item) for item in raw)
        except ValueError as error:
            raise ValueError(f"a list with commas, each item {error}") from None
        if len(parsed) < self.least:
            raise ValueError(f"a list of at least {self.least}, each {self.item.allowed}")
        if len(set(parsed)) < len(parsed):
            raise ValueError(f"a list without repeats, each item {self.item.allowed}")
        return parsed

    def text(self, value: tuple[T, ...]) -> str:
        return ",".join(map(self.item.text, value))

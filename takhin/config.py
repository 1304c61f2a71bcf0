"""Where the values of the settings tree come from: flag > environment > TOML file > default.

Everything here is derived from the fields of `takhin.settings`; no option is named twice. Owns the
names of keys, variables and flags, the checks, and the printing of the result; starts nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from takhin.errors import StartupError
from takhin.limits import shown
from takhin.settings import Settings

VARIABLE_PREFIX = "TAKHIN_"
CONFIG_VARIABLE = "TAKHIN_CONFIG"
SERVER_VARIABLE = "TAKHIN_SERVER"

SERVICE_LINK = re.compile(
    r"TAKHIN_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*)",
    re.DOTALL,
)
"""NAME=VALUE of the variables that Kubernetes and Docker links put into every process beside a service
called "takhin" or "takhin-…". Nobody set them on purpose, so they are no mistakes."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its key in the file, and what its field in the tree says of it."""

    key: str
    default: int | str
    doc: str
    least: int
    most: int
    choices: tuple[str, ...]
    check: Callable[[str], object] | None

    @property
    def variable(self) -> str:
        """TAKHIN_STORAGE_COMMIT_THREADS for storage.commit_threads."""
        return VARIABLE_PREFIX + self.key.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """--storage-commit-threads for storage.commit_threads."""
        return "--" + self.key.replace(".", "-").replace("_", "-")

    @property
    def allowed(self) -> str:
        """What the value must be, as a person would say it."""
        if isinstance(self.default, int):
            return f"a whole number from {self.least} to {self.most}"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "text without control characters, and not empty"

    @property
    def help(self) -> str:
        """The doc and, in short, what is allowed."""
        if isinstance(self.default, int):
            return f"{self.doc} (at least {self.least})"
        return f"{self.doc} ({', '.join(self.choices)})" if self.choices else self.doc

    def parse(self, raw: object, origin: str) -> int | str:
        """The value of a flag or a variable (both may be text) or of a TOML key.

        Raises StartupError, which names the key, the value and `origin`, if it is not allowed.
        """
        try:
            return self._number(raw) if isinstance(self.default, int) else self._text(raw)
        except ValueError as error:
            value = shown(raw) if isinstance(raw, str) else shown(repr(raw))
            raise StartupError(f"{self.key} must be {error}, not {value} ({origin})") from None

    def _number(self, raw: object) -> int:
        if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,19}", raw):
            raw = int(raw)
        # bool is an int to Python; it is not to the person who wrote `true`.
        if not isinstance(raw, int) or isinstance(raw, bool) or not self.least <= raw <= self.most:
            raise ValueError(self.allowed)
        return raw

    def _text(self, raw: object) -> str:
        # Control characters would break log lines; surrogates (Cs) are bytes that are no UTF-8.
        if not isinstance(raw, str) or not raw or any(unicodedata.category(c) in {"Cc", "Cs"} for c in raw):
            raise ValueError(self.allowed)
        if self.choices and raw not in self.choices:
            raise ValueError(self.allowed)
        if self.check is not None:
            self.check(raw)
        return raw


def _branches() -> Iterator[tuple[str, type]]:
    """The branches of the tree: ("", Settings) for the top, then ("storage", StorageSettings), …"""
    yield "", Settings
    for field in dataclasses.fields(Settings):
        if isinstance(field.default_factory, type):
            yield field.name, field.default_factory


def _options() -> Iterator[Option]:
    for branch, kind in BRANCHES.items():
        for field in dataclasses.fields(kind):
            if field.name not in BRANCHES:
                key = f"{branch}.{field.name}" if branch else field.name
                yield Option(key, cast("int | str", field.default), **field.metadata)


BRANCHES = dict(_branches())
OPTIONS = {option.key: option for option in _options()}
"""Every setting by its key, in the order of the tree."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and by key where each value came from."""

    settings: Settings
    origins: Mapping[str, str]

    def as_toml(self) -> str:
        """A config file with every setting, which loads back to the same settings."""
        lines: list[str] = []
        for branch, kind in BRANCHES.items():
            part = getattr(self.settings, branch) if branch else self.settings
            if branch:
                lines += ["", f"[{branch}]  # {kind.__doc__}"]
            for option in OPTIONS.values():
                head, _, name = option.key.rpartition(".")
                if head == branch:
                    lines.append(f"# {option.help}")
                    lines.append(f"{name} = {_toml(getattr(part, name))}  # from: {self.origins[option.key]}")
        return "\n".join(lines) + "\n"


def load(flags: Mapping[str, int | str], environ: Mapping[str, str], file: Path | None) -> Loaded:
    """The settings from all sources.

    flags: values by key, only those that were given. environ: all of the process's variables.
    file: the TOML file; if it is None, TAKHIN_CONFIG may name one.
    Raises StartupError for whatever is unknown or not allowed, in the sources that lose as well: a
    mistake that is overridden today is still there tomorrow.
    """
    if file is None and CONFIG_VARIABLE in environ:
        file = Path(environ[CONFIG_VARIABLE])
    values = {key: option.default for key, option in OPTIONS.items()}
    origins = dict.fromkeys(OPTIONS, "default")
    for given in (_from_file(file), _from_environ(environ), _from_flags(flags)):
        for key, raw, origin in given:
            values[key] = OPTIONS[key].parse(raw, origin)
            origins[key] = origin
    return Loaded(_tree(values), origins)


_Given = Iterator[tuple[str, object, str]]  # key, value as it was given, where


def _from_flags(flags: Mapping[str, int | str]) -> _Given:
    for key, raw in flags.items():
        yield key, raw, f"flag {OPTIONS[key].flag}"


def _from_environ(environ: Mapping[str, str]) -> _Given:
    variables = {option.variable: option.key for option in OPTIONS.values()}
    for name, raw in environ.items():
        if name in variables:
            yield variables[name], raw, f"variable {name}"
        elif name.startswith(VARIABLE_PREFIX):
            _refuse_mistaken(name, raw, [*variables, CONFIG_VARIABLE, SERVER_VARIABLE])


def _refuse_mistaken(name: str, raw: str, known: list[str]) -> None:
    """Refuse a variable that was meant for the broker; leave alone those of others.

    Meant for it is what begins as a section does or resembles a known name. The rest of TAKHIN_… is
    free: service links, clients and scripts have variables too.
    """
    if name in known or SERVICE_LINK.fullmatch(f"{name}={raw}"):
        return
    bare = name.removeprefix(VARIABLE_PREFIX)
    cutoff = 0.0 if bare.split("_")[0].lower() in BRANCHES else 0.6
    near = _nearest(bare, [other.removeprefix(VARIABLE_PREFIX) for other in known], cutoff)
    if near is not None:
        raise StartupError(
            f"unknown variable {shown(name)}; the nearest known one is {VARIABLE_PREFIX}{near}"
        )


def _from_file(file: Path | None) -> _Given:
    if file is None:
        return
    origin = f"file {str(file)!r}"
    for key, raw in _read(file).items():
        if key not in BRANCHES:
            yield _known(key, origin), raw, origin
        elif isinstance(raw, dict):
            for name, inner in raw.items():
                yield _known(f"{key}.{name}", origin), inner, origin
        else:
            raise StartupError(f"{key} must be a table, as in [{key}], not {shown(repr(raw))} ({origin})")


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise StartupError(f"cannot read the config file {str(file)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, nested beyond reason
        raise StartupError(f"the config file {str(file)!r} is not TOML: {error}") from error


def _known(key: str, origin: str) -> str:
    if key in OPTIONS:
        return key
    near = _nearest(key, [*OPTIONS, *filter(None, BRANCHES)], cutoff=0.0)
    raise StartupError(f"unknown setting {shown(key)}; the nearest known one is {near} ({origin})")


def _nearest(word: str, known: list[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, 1, cutoff)), None)


def _tree(values: Mapping[str, int | str]) -> Settings:
    """The frozen tree out of values by key."""
    arguments: dict[str, dict[str, object]] = {branch: {} for branch in BRANCHES}
    for key, value in values.items():
        branch, _, name = key.rpartition(".")
        arguments[branch][name] = value
    top = arguments.pop("")
    return Settings(**top, **{branch: BRANCHES[branch](**of) for branch, of in arguments.items()})  # type: ignore[arg-type]


def _toml(value: int | str) -> str:
    # For text without control characters a JSON string is a TOML basic string.
    return json.dumps(value, ensure_ascii=False)

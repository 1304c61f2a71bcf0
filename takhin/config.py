"""Where the values of the settings tree come from: flag > environment > TOML file > default.

Everything here is derived from the fields of a tree such as `takhin.settings.Settings`; no setting is named
twice. Owns the names of keys, variables and flags, the reading of a secret's file, and the printing of the
result. What a value may be is said by its kind, in `takhin.kinds`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from takhin import units
from takhin.errors import StartupError
from takhin.kinds import FilePath, Kind, Secret, SecretText
from takhin.sentences import NEAR, nearest, shown
from takhin.settings import Settings

VARIABLE_PREFIX = "TAKHIN_"
CONFIG_VARIABLE = "TAKHIN_CONFIG"
SERVER_VARIABLE = "TAKHIN_SERVER"
CLIENT_VARIABLES = (
    SERVER_VARIABLE,
    *(
        f"TAKHIN_{name}"
        for name in ("CONTEXT", "CONTEXTS", "TLS", "CA", "CERT", "KEY", "TOKEN", "TOKEN_FILE")
    ),
)
"""What the commands that talk to a broker take from the environment: see `takhin.cli.connection`."""

FILE_OF_SECRET = "_file"  # noqa: S105  part of a name
"""Ends the key that names the file of a secret: password_file beside password."""

SERVICE_LINK = re.compile(
    r"TAKHIN_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*)",
    re.DOTALL,
)
"""NAME=VALUE of the variables that Kubernetes and Docker links put into every process beside a service
called "takhin" or "takhin-…". Nobody set them on purpose, so they are not mistakes."""

S = TypeVar("S")
"""The root of a tree."""


@dataclass(frozen=True, slots=True)
class Option:
    """One key that may be given: a setting's own, or the one that names the file of a secret.

    fills: the key of the setting that gets the value.
    """

    key: str
    default: Any
    doc: str
    kind: Kind[Any]
    fills: str

    @property
    def variable(self) -> str:
        """TAKHIN_STORAGE_COMMIT_THREADS for storage.commit_threads."""
        return VARIABLE_PREFIX + self.key.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """--storage-commit-threads for storage.commit_threads."""
        return "--" + self.key.replace(".", "-").replace("_", "-")

    @property
    def help(self) -> str:
        """The doc and, in short, what is allowed."""
        return f"{self.doc} ({self.kind.note})" if self.kind.note else self.doc

    @property
    def shown_default(self) -> str:
        """The default as a person would write it; empty if there is none."""
        return "" if self.default is None else self.kind.text(self.default)

    def parse(self, raw: object, origin: str) -> Any:
        """The value of a flag or a variable (both are text) or of a TOML key.

        Raises StartupError if it is not allowed. The error names the key, `origin`, and the value, unless
        that is a secret or may be one that was given in place of its file.
        """
        try:
            return self.kind.parse(raw)
        except ValueError as error:
            value = shown(raw if isinstance(raw, str) else repr(raw))
            if isinstance(self.kind, SecretText):
                value = "what was given, which is a secret"
            elif self.fills != self.key:
                value = "what was given, which may be a secret"
            elif hint := units.plain(self.key, str(raw)):
                value += f"; {hint}"
            raise StartupError(f"{self.key} must be {error}, not {value} ({origin})") from None


class Tree(Generic[S]):
    """The options of a settings tree.

    root: a frozen dataclass. Its fields are settings, and branches, whose default_factory is a dataclass of
    settings.
    """

    def __init__(self, root: type[S]) -> None:
        self._root = root
        self.branches: dict[str, type] = {"": root}
        """"" for the top, then "storage" and so on."""
        for field in dataclasses.fields(cast("Any", root)):
            if isinstance(field.default_factory, type):
                self.branches[field.name] = field.default_factory
        self.options = {option.key: option for option in self._options()}
        """Every option by its key, in the order of the tree."""

    def _options(self) -> Iterator[Option]:
        for branch, branch_class in self.branches.items():
            for field in dataclasses.fields(branch_class):
                if branch or field.name not in self.branches:
                    key = f"{branch}.{field.name}" if branch else field.name
                    option = Option(key, field.default, field.metadata["doc"], field.metadata["kind"], key)
                    yield option
                    if isinstance(option.kind, SecretText):
                        doc = f"file that holds {option.key}, alone on its one line"
                        yield Option(key + FILE_OF_SECRET, None, doc, FilePath(), key)

    def load(self, flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> Loaded[S]:
        """The settings from all sources.

        flags: values by key, only those that were given. environ: all variables of the process.
        file: the TOML file. If it is None, TAKHIN_CONFIG may name one.
        Raises StartupError for whatever is unknown or not allowed, also if another source overrides it: a
        mistake that is overridden today is still there tomorrow.
        """
        if file is None and CONFIG_VARIABLE in environ:
            file = Path(environ[CONFIG_VARIABLE])
        values = {key: option.default for key, option in self.options.items() if option.fills == key}
        origins = dict.fromkeys(values, "default")
        for given in (self._from_file(file), self._from_environ(environ), self._from_flags(flags)):
            filled: dict[str, str] = {}
            for key, raw, origin in given:
                option = self.options[key]
                value = option.parse(raw, origin)
                if option.fills != key:
                    value = _secret_in(value, key, origin)
                if option.fills in filled:
                    raise StartupError(f"give {filled[option.fills]} or {key}, not both ({origin})")
                filled[option.fills] = key
                values[option.fills], origins[option.fills] = value, origin
        return Loaded(self._built(values), origins, self)

    def _built(self, values: Mapping[str, object]) -> S:
        """The frozen tree with these values by key."""
        arguments: dict[str, dict[str, object]] = {branch: {} for branch in self.branches}
        for key, value in values.items():
            branch, _, name = key.rpartition(".")
            arguments[branch][name] = value
        top = arguments.pop("")
        branches = {branch: self.branches[branch](**of) for branch, of in arguments.items()}
        return self._root(**top, **branches)

    def _from_flags(self, flags: Mapping[str, object]) -> _Given:
        for key, raw in flags.items():
            yield key, raw, f"flag {self.options[key].flag}"

    def _from_environ(self, environ: Mapping[str, str]) -> _Given:
        variables = {option.variable: option.key for option in self.options.values()}
        for name, raw in environ.items():
            if name in variables:
                yield variables[name], raw, f"variable {name}"
            elif name.startswith(VARIABLE_PREFIX):
                self._refuse_mistaken(name, raw, [*variables, CONFIG_VARIABLE, *CLIENT_VARIABLES])

    def _refuse_mistaken(self, name: str, raw: str, known: list[str]) -> None:
        """Refuse a variable that was meant for the broker, and leave alone those of others.

        A variable was meant for the broker if it begins as a section does or resembles a known name. The rest
        of TAKHIN_… is free: service links, clients and scripts have variables too.
        """
        if name in known or SERVICE_LINK.fullmatch(f"{name}={raw}"):
            return
        bare = name.removeprefix(VARIABLE_PREFIX)
        cutoff = 0.0 if bare.split("_")[0].lower() in self.branches else NEAR
        near = nearest(bare, [other.removeprefix(VARIABLE_PREFIX) for other in known], cutoff=cutoff)
        if near is not None:
            raise StartupError(
                f"unknown variable {shown(name)}; the nearest known one is {VARIABLE_PREFIX}{near}"
            )

    def _from_file(self, file: Path | None) -> _Given:
        if file is None:
            return
        origin = f"file {str(file)!r}"
        for key, raw in _read(file).items():
            if key not in self.branches:
                yield self._known(key, origin), raw, origin
            elif isinstance(raw, dict):
                for name, inner in raw.items():
                    yield self._known(f"{key}.{name}", origin), inner, origin
            else:
                raise StartupError(f"{key} must be a table, as in [{key}], not {shown(repr(raw))} ({origin})")

    def _known(self, key: str, origin: str) -> str:
        if key in self.options:
            return key
        near = nearest(key, [*self.options, *filter(None, self.branches)])
        raise StartupError(f"unknown setting {shown(key)}; the nearest known one is {near} ({origin})")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """The settings in force, and by key where each value came from."""

    settings: S
    origins: Mapping[str, str]
    tree: Tree[S]

    def as_toml(self) -> str:
        """A config file with every setting, which loads back to the same settings.

        A secret is the exception, unless it came from a file: it is masked in a comment, and so left out.
        """
        lines: list[str] = []
        for branch, branch_class in self.tree.branches.items():
            part = getattr(self.settings, branch) if branch else self.settings
            if branch:
                lines += ["", f"[{branch}]  # {branch_class.__doc__}"]
            for option in self.tree.options.values():
                head, _, name = option.key.rpartition(".")
                if head == branch and option.fills == option.key:
                    line = _toml_line(name, getattr(part, name))
                    lines += [f"# {option.help}", f"{line}  # from: {self.origins[option.key]}"]
        return "\n".join(lines) + "\n"


_Given = Iterator[tuple[str, object, str]]  # key, value as it was given, where


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise StartupError(f"cannot read the config file {str(file)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, nested beyond reason
        raise StartupError(f"the config file {str(file)!r} is not TOML: {error}") from error


def _secret_in(file: Path, key: str, origin: str) -> Secret:
    """The secret in a file, without the end of its line. No error repeats what the file holds.

    A path without a slash is not repeated either: it may be the secret itself, given under the wrong key.
    """
    named = f"the file of {key}"
    if "/" in str(file):
        named += f", {str(file)!r},"
    try:
        text = file.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise StartupError(f"{named} cannot be read: {error.strerror} ({origin})") from None
    except UnicodeDecodeError:
        raise StartupError(f"{named} is not UTF-8 ({origin})") from None
    try:
        return Secret(SecretText().parse(text).reveal(), file=file)
    except ValueError as error:
        raise StartupError(f"{named} must hold {error} ({origin})") from None


def _toml_line(name: str, value: object) -> str:
    """A line that sets the value; for a secret, a comment or a line that names its file."""
    if not isinstance(value, Secret):
        return f"{name} = {_toml(value)}"
    if value.file is not None:
        return f"{name}{FILE_OF_SECRET} = {_toml(value.file)}"
    return f'# {name} = "{Secret.MASK if value else ""}"'


def _toml(value: object) -> str:
    # JSON's numbers, booleans, arrays, and strings without control characters are TOML's too.
    return json.dumps("" if value is None else value, ensure_ascii=False, default=_path)


def _path(value: object) -> str:
    return FilePath().text(cast("Path", value))


BROKER = Tree(Settings)
"""The settings of a broker."""

OPTIONS = BROKER.options
load = BROKER.load

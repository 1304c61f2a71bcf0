"""Named brokers: the file that says how to reach each one, and what the environment has to say.

    current = "prod"

    [contexts.prod]
    server = "broker.example:9092"
    ca = "/etc/takhin/ca.pem"
    token_file = "/run/secrets/takhin"

The file is TAKHIN_CONTEXTS, else takhin/contexts.toml in XDG_CONFIG_HOME, else in ~/.config. Where somebody
puts a token into it, nobody else may be able to read it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from takhin.client.tls import TlsFiles
from takhin.client.token import checked_token
from takhin.errors import InvalidArgumentError
from takhin.kinds import Bool, FilePath, Kind, Secret, SecretText, Text
from takhin.sentences import listed, nearest, shown
from takhin.settings import Settings
from takhin.settings.security import UNIX, listen_address

DEFAULT_SERVER = Settings().listen[0]
NAME = re.compile("[A-Za-z0-9._-]{1,64}")
TOKEN_BYTES_MAX = 16 << 10
FILE_BYTES_MAX = 1 << 20
OTHERS = stat.S_IRWXG | stat.S_IRWXO
TOGETHER = (("server",), ("tls",), ("ca",), ("cert", "key"), ("token", "token_file"))
"""What is taken from one source: a key from one and its certificate from another would not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How to reach one broker. None: it does not say.

    server: HOST:PORT, tls://HOST:PORT or unix:PATH. tls: whether to use TLS; a ca, a cert, and tls:// in the
    address imply it. ca: whom to trust. cert, key: the client's own. All three are files in PEM.
    token: says who the client is. token_file: has the token in it.
    """

    server: str | None = None
    tls: bool | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: Secret | None = None
    token_file: Path | None = None

    @classmethod
    def checked(cls, name: str, values: Mapping[str, object]) -> Context:
        """A context of these values. Raises InvalidArgumentError for a name or a value that will not do."""
        if not NAME.fullmatch(name):
            raise InvalidArgumentError(
                f"a context's name has 1 to 64 letters, digits, dots, dashes or underscores: {shown(name)}"
            )
        made = cls(**{key: _parsed(key, value, "as given") for key, value in values.items()})
        _endpoint(replace(made, token_file=None))  # raises for what does not go together
        return made

    def over(self, other: Context) -> Context:
        """This one, and what `other` says of that of which it says nothing."""
        taken: dict[str, Any] = {}
        for names in TOGETHER:
            source = self if any(getattr(self, name) is not None for name in names) else other
            taken |= {name: getattr(source, name) for name in names}
        return Context(**taken)


KINDS: dict[str, Kind[Any]] = {
    "server": Text(listen_address),
    "tls": Bool(),
    "ca": FilePath(),
    "cert": FilePath(),
    "key": FilePath(),
    "token": SecretText(),
    "token_file": FilePath(),
}
"""What each value of a context may be, in the order in which they are written."""


class Credentials(TypedDict):
    """What a client shows."""

    tls: TlsFiles | None
    token: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A broker and how to reach it: the arguments of `Producer`, `Consumer` and `Admin`."""

    server: str
    tls: TlsFiles | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def credentials(self) -> Credentials:
        """The arguments `tls` and `token`: Producer(at.server, **at.credentials)."""
        return {"tls": self.tls, "token": self.token}

    def __str__(self) -> str:
        return self.server


def endpoint(
    context: str | None = None, *, given: Context | None = None, environ: Mapping[str, str] = os.environ
) -> Endpoint:
    """The broker that is meant, and how to reach it.

    context: its name in the contexts file. given: what is known of it, which wins over TAKHIN_SERVER,
    TAKHIN_TLS, TAKHIN_CA, TAKHIN_CERT, TAKHIN_KEY, TAKHIN_TOKEN and TAKHIN_TOKEN_FILE; and those win over the
    context. Without a context and a server, TAKHIN_CONTEXT names one, else the file's current one is taken.
    Raises InvalidArgumentError for what is unknown or cannot be used.
    """
    given = given or Context()
    variables = _from_environ(environ)
    named = environ.get("TAKHIN_CONTEXT") or None
    if context is not None and given.server is not None:
        raise InvalidArgumentError("give a context or a server, not both", field="context")
    if context is not None:
        variables = replace(variables, server=None)
    elif given.server is None:
        if named is not None and variables.server is not None:
            raise InvalidArgumentError(
                "TAKHIN_CONTEXT and TAKHIN_SERVER are both set; unset one", field="context"
            )
        context = named
        if context is None and variables.server is None:
            context = Contexts.read(contexts_path(environ)).current
    found = Context() if context is None else Contexts.read(contexts_path(environ)).get(context)
    return _endpoint(given.over(variables).over(found))


def _endpoint(of: Context) -> Endpoint:
    server = of.server or DEFAULT_SERVER
    address = listen_address(server)
    implied = address.kind != UNIX and (of.ca is not None or of.cert is not None or address.encrypted)
    encrypted = implied if of.tls is None else of.tls
    if address.encrypted and not encrypted:
        raise InvalidArgumentError(f"{server} is reached by TLS alone, which is switched off", field="tls")
    if (of.cert is None) != (of.key is None):
        raise InvalidArgumentError("give cert and key, or neither", field="cert")
    tls = TlsFiles(ca=of.ca, certificate=of.cert, key=of.key) if encrypted else None
    return Endpoint(server, tls, _token(of))


def _token(of: Context) -> str | None:
    if of.token is not None and of.token_file is not None:
        raise InvalidArgumentError("give a token or its file, not both", field="token")
    if of.token is not None:
        return checked_token(of.token.reveal(), "the token")
    if of.token_file is None:
        return None
    try:
        with Path(of.token_file).open("rb") as file:
            content = file.read(TOKEN_BYTES_MAX)
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot read the token's file {str(of.token_file)!r}: {error.strerror}", field="token_file"
        ) from error
    return checked_token(content.decode("latin-1"), f"the file {str(of.token_file)!r}")


def _from_environ(environ: Mapping[str, str]) -> Context:
    values = {}
    for name in KINDS:
        variable = f"TAKHIN_{name.upper()}"
        if raw := environ.get(variable):
            values[name] = _parsed(name, raw, f"variable {variable}")
    return Context(**values)


def _parsed(name: str, raw: object, origin: str) -> Any:
    kind = KINDS[name]
    try:
        value = kind.parse(raw)
    except ValueError as error:
        said = "what was given" if isinstance(kind, SecretText) else shown(str(raw))
        raise InvalidArgumentError(f"{name} must be {error}, not {said} ({origin})", field=name) from None
    return value.expanduser() if isinstance(value, Path) else value


def contexts_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the contexts file is."""
    if given := environ.get("TAKHIN_CONTEXTS"):
        return Path(given).expanduser()
    config = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "takhin" / "contexts.toml"


@dataclass(slots=True)
class Contexts:
    """What a contexts file holds. current: the name of the one that is meant if nobody says."""

    path: Path
    contexts: dict[str, Context] = field(default_factory=dict)
    current: str | None = None

    def get(self, name: str) -> Context:
        """Raises InvalidArgumentError if there is none of that name."""
        if name not in self.contexts:
            near = nearest(name, self.contexts)
            known = f"; the nearest known one is {near!r}" if near else ""
            raise InvalidArgumentError(
                f"there is no context {shown(name)} in {self.path}{known}", field="context"
            )
        return self.contexts[name]

    @classmethod
    def read(cls, path: Path) -> Contexts:
        """The contexts of a file; none if there is no file.

        Raises InvalidArgumentError if it cannot be used, or if it has a token that others can read.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = tomllib.loads(file.read(FILE_BYTES_MAX).decode())
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise InvalidArgumentError(f"cannot read the contexts file {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"the contexts file {path} is not TOML: {error}") from error
        found = cls(path)
        found._take(content)
        if mode & OTHERS and any(context.token is not None for context in found.contexts.values()):
            raise InvalidArgumentError(f"{path} has a token, and others can read it: chmod 600 {path}")
        return found

    def _take(self, content: dict[str, Any]) -> None:
        self._check_keys(content, ("current", "contexts"), "")
        tables = content.get("contexts", {})
        if not isinstance(tables, dict):
            raise InvalidArgumentError(f"contexts must be a table, as in [contexts.prod] ({self.path})")
        for name, table in tables.items():
            if not NAME.fullmatch(name) or not isinstance(table, dict):
                raise InvalidArgumentError(f"contexts.{name} is no context ({self.path})")
            self._check_keys(table, KINDS, f" of context {name!r}")
            values = {key: _parsed(key, raw, str(self.path)) for key, raw in table.items()}
            for key, value in values.items():
                if isinstance(value, Path):
                    values[key] = self.path.parent / value
            self.contexts[name] = Context(**values)
        self.current = content.get("current")
        if self.current is not None and self.current not in [*self.contexts]:
            raise InvalidArgumentError(
                f"current must be one of the contexts, not {self.current!r} ({self.path})"
            )

    def _check_keys(
        self, table: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], of: str
    ) -> None:
        for key in table:
            if key not in known:
                raise InvalidArgumentError(
                    f"unknown key {shown(key)}{of} ({self.path}); known are {listed(list(known), 'and')}"
                )

    def write(self) -> None:
        """Put the file into place, for its owner alone. Raises InvalidArgumentError if that fails."""
        lines = ["# Written by `takhin context`; comments do not survive its next change."]
        if self.current is not None:
            lines += [f"current = {json.dumps(self.current)}"]
        for name, context in self.contexts.items():
            lines += ["", f'[contexts."{name}"]']
            for key in KINDS:
                if (value := getattr(context, key)) is not None:
                    plain = value.reveal() if isinstance(value, Secret) else value
                    lines += [f"{key} = {json.dumps(plain, ensure_ascii=False, default=str)}"]
        path = self.path.resolve()  # a link, of those who keep such files elsewhere, stays one
        try:
            _put(path, "\n".join(lines) + "\n")
        except OSError as error:
            raise InvalidArgumentError(f"cannot write {path}: {error.strerror}") from error


def _put(path: Path, content: str) -> None:
    """Put a file in place of another one, wholly or not at all. Nothing else is left where that fails."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def changing(path: Path) -> Iterator[Contexts]:
    """The contexts of a file, which is written when the block has ended well. Others wait so long.

    Raises InvalidArgumentError if it cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgumentError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        contexts = Contexts.read(path)
        yield contexts
        contexts.write()
    finally:
        os.close(folder)

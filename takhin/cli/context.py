"""`takhin context`: brokers by name, with how to reach them, for all commands that talk to one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from takhin.cli.connection import explained, refused_token
from takhin.cli.names import Suggesting
from takhin.cli.output import json_option, print_json
from takhin.cli.rows import print_table
from takhin.client.contexts import (
    KINDS,
    TOKEN_BYTES_MAX,
    Context,
    Contexts,
    changing,
    contexts_path,
)
from takhin.client.token import checked_token
from takhin.errors import InvalidArgumentError
from takhin.kinds import Secret
from takhin.settings.security import UNIX, listen_address

STDIN = "-"


@click.group(cls=Suggesting, no_args_is_help=False)
def context() -> None:
    """Name brokers, with their addresses, certificates and tokens.

    The current context, or the one that --context or TAKHIN_CONTEXT names, is the broker of all commands that
    are not told of another one. They are in takhin/contexts.toml in ~/.config, or where TAKHIN_CONTEXTS says.
    """


def _names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [name for name in Contexts.read(contexts_path()).contexts if name.startswith(incomplete)]
    except InvalidArgumentError:
        return []


name_argument = click.argument("name", shell_complete=_names)
_path = click.Path(path_type=Path)


@context.command()
@click.argument("name")
@click.option("--server", required=True, metavar="ADDRESS", help="HOST:PORT, tls://HOST:PORT or unix:PATH.")
@click.option("--tls/--no-tls", default=None, help="Use TLS, or do not; --ca and --cert imply it.")
@click.option("--ca", type=_path, metavar="FILE", help="Authorities to trust, in PEM.")
@click.option("--cert", type=_path, metavar="FILE", help="Your certificate, in PEM.")
@click.option("--key", "--cert-key", type=_path, metavar="FILE", help="The key of that certificate.")
@click.option(
    "--token-file",
    metavar="FILE",
    help="The file of your token, which stays there. With - the token is read from stdin, and kept.",
)
@click.option("--token", hidden=True, expose_value=False, callback=refused_token)
@click.option("--use", "used", is_flag=True, help="Make it the current one.")
@click.option("--replace", "replaced", is_flag=True, help="Do so also if there is one of that name.")
def add(name: str, *, used: bool, replaced: bool, token_file: str | None, **given: Any) -> None:
    """Add a context. A token is read from a file or from stdin, never from the command line."""
    values = {key: value for key, value in given.items() if value is not None}
    for key, value in values.items():
        if isinstance(value, Path):
            values[key] = value.absolute()
    values["server"] = _absolute(given["server"])
    if token_file == STDIN:
        values["token"] = Secret(_token_from_stdin())
    elif token_file is not None:
        values["token_file"] = Path(token_file).absolute()
    with explained():
        added = Context.checked(name, values)
        with changing(contexts_path()) as contexts:
            if name in contexts.contexts and not replaced:
                raise InvalidArgumentError(f"there is a context {name!r}; --replace replaces it")
            contexts.contexts[name] = added
            if used:
                contexts.current = name
    for key, value in values.items():
        if isinstance(value, Path) and not value.exists():  # it may come later, as secrets of containers do
            click.echo(f"takhin: there is no file {value} yet ({key})", err=True)
    click.echo(f"added context {name}" + (", the current one" if used else ""))


def _absolute(server: str) -> str:
    """The address, with the path of a socket file made absolute like all others."""
    try:
        address = listen_address(server)
    except ValueError:  # told with all else that is wrong
        return server
    return f"unix:{Path(address.path).absolute()}" if address.kind == UNIX else server


def _token_from_stdin() -> str:
    if sys.stdin is None:
        raise click.ClickException("there is no stdin to read the token from")
    asked = sys.stdin.isatty()
    text = click.prompt("Token", hide_input=True, err=True) if asked else sys.stdin.read(TOKEN_BYTES_MAX)
    with explained():
        return checked_token(str(text).strip(), "what is read from stdin")


@context.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List all contexts; a star marks the current one."""
    with explained():
        contexts = Contexts.read(contexts_path())
    if as_json:
        print_json([_document(contexts, name) for name in contexts.contexts])
        return
    rows = [
        ("*" if name == contexts.current else "", name, of.server or "", _identity(of))
        for name, of in contexts.contexts.items()
    ]
    print_table(["", "name", "server", "as"], rows)


@context.command()
@name_argument
def use(name: str) -> None:
    """Make a context the current one."""
    with explained(), changing(contexts_path()) as contexts:
        contexts.get(name)
        contexts.current = name
    click.echo(f"{name} is the current context")


@context.command()
@click.argument("name", required=False, shell_complete=_names)
@json_option
def show(name: str | None, *, as_json: bool) -> None:
    """Show a context, by default the current one. Of a token it shows only that there is one."""
    with explained():
        contexts = Contexts.read(contexts_path())
        name = name or contexts.current
        if name is None:
            raise click.ClickException(
                "there is no current context: give a NAME, or choose one with `takhin context use`"
            )
        contexts.get(name)
    document = _document(contexts, name)
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        click.echo(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")


@context.command()
@name_argument
def remove(name: str) -> None:
    """Remove a context. The files that it names stay."""
    with explained(), changing(contexts_path()) as contexts:
        contexts.get(name)
        del contexts.contexts[name]
        if contexts.current == name:
            contexts.current = None
    click.echo(f"removed context {name}")


def _document(contexts: Contexts, name: str) -> dict[str, Any]:
    """What a context says, with a mask for its token."""
    of = contexts.contexts[name]
    known = {key: getattr(of, key) for key in KINDS if getattr(of, key) is not None}
    plain = {key: value if isinstance(value, bool) else _masked(value) for key, value in known.items()}
    return {"name": name, "current": name == contexts.current, **plain}


def _masked(value: object) -> str:
    return Secret.MASK if isinstance(value, Secret) else str(value)


def _identity(of: Context) -> str:
    """How a context says who its user is."""
    ways = [
        *(["certificate"] if of.cert else []),
        *(["token"] if of.token or of.token_file else []),
    ]
    return " and ".join(ways)

"""`takhin tokens`: makes, lists and revokes tokens, in a data folder or at a broker."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from takhin import units
from takhin.access.tokens import new_token
from takhin.cli.connection import admin, explained, run
from takhin.cli.keeping import LIMITS, chosen_folder, opened, place_options
from takhin.cli.names import Suggesting
from takhin.cli.output import json_option, print_json, time_text
from takhin.cli.rows import print_table
from takhin.client import TokenInfo
from takhin.client.contexts import Endpoint
from takhin.clock import system_clock
from takhin.sentences import counted

NEVER = -1
"""How a time that is none is printed: as "-"."""


@click.group(cls=Suggesting, no_args_is_help=False)
def tokens() -> None:
    """Make, list and revoke tokens, by which callers prove who they are.

    With --data-dir in a data folder, also beside a running broker, which knows of it within a second;
    with --server at a broker, which asks for the right to administer tokens.
    """


def _duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    if (ms := units.milliseconds(text)) is None or ms == 0:
        raise click.BadParameter(f"must be a time such as 90d or 12h, not {text!r}")
    return ms


@tokens.command("create")
@click.argument("name")
@click.option("--expires", metavar="TIME", callback=_duration, help="How long it is valid, such as 90d.")
@click.option("--note", default="", help="A note, such as where it is used.")
@json_option
@place_options
def create(
    name: str, *, expires: int | None, note: str, as_json: bool, data_dir: Path, server: Endpoint
) -> None:
    """Make a token for the principal NAME, and print it. It is shown only now: the broker keeps a hash."""
    expires_at = 0 if expires is None else system_clock() + expires
    folder = chosen_folder(data_dir)

    async def at_broker() -> tuple[str, TokenInfo]:
        async with admin(server) as broker:
            return await broker.create_token(name, expires_at=expires_at or None, note=note)

    if folder is None:
        text, info = run(at_broker())
        token_id = info.token_id
    else:
        with explained(), closing(opened(folder, make=True)) as file:
            text, token = new_token(name, expires_at=expires_at, note=note, now=system_clock())
            file.add_token(token, LIMITS.tokens_max)
        token_id = token.token_id
    if as_json:
        print_json({"token_id": token_id, "principal": name, "expires_at": expires_at, "token": text})
    else:
        until = f", valid until {time_text(expires_at)}" if expires_at else ""
        click.echo(f"token {token_id} for {name}{until}, shown only now: {text}")


@tokens.command("list")
@click.argument("name", default="")
@json_option
@place_options
def list_(name: str, *, as_json: bool, data_dir: Path, server: Endpoint) -> None:
    """List tokens, of the principal NAME or all of them. What is listed is no secret."""
    folder = chosen_folder(data_dir)

    async def at_broker() -> list[TokenInfo]:
        async with admin(server) as broker:
            return await broker.list_tokens(name)

    if folder is None:
        found = run(at_broker())
    else:
        with explained(), closing(opened(folder)) as file:
            found = [
                TokenInfo(of.token_id, of.principal, of.created_at, of.expires_at, of.last_used_at, of.note)
                for of in file.load().tokens
                if name in ("", of.principal)
            ]
    if as_json:
        print_json([of._asdict() for of in found])
        return
    rows = [
        (
            of.token_id,
            of.principal,
            *(time_text(at or NEVER) for at in (of.created_at, of.expires_at, of.last_used_at)),
            of.note,
        )
        for of in found
    ]
    print_table(["id", "principal", "created", "expires", "last used", "note"], rows)


@tokens.command("revoke")
@click.argument("id_or_name", metavar="ID|NAME")
@json_option
@place_options
def revoke(id_or_name: str, *, as_json: bool, data_dir: Path, server: Endpoint) -> None:
    """Revoke the token with this id, else all tokens of the principal of this name."""
    folder = chosen_folder(data_dir)

    async def at_broker() -> list[str]:
        async with admin(server) as broker:
            return [of.token_id for of in await broker.revoke_tokens(id_or_name)]

    if folder is None:
        revoked = run(at_broker())
    else:
        with explained(), closing(opened(folder)) as file:
            revoked = [of.token_id for of in file.remove_tokens(id_or_name)]
    if not revoked:
        raise click.ClickException(
            f"there is no token with the id {id_or_name!r}, and none of {id_or_name!r}"
        )
    if as_json:
        print_json({"revoked": revoked})
    else:
        click.echo(f"revoked {counted(len(revoked), 'token')}: {' '.join(revoked)}")

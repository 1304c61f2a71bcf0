"""`takhin access`: the rules of who may do what, in a data folder or at a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from takhin.access.rules import Action, Resource, Rule, checked_rule
from takhin.cli.connection import admin, explained, run
from takhin.cli.keeping import LIMITS, chosen_folder, opened, place_options
from takhin.cli.names import Suggesting
from takhin.cli.output import json_option, print_json
from takhin.cli.rows import print_table
from takhin.client.contexts import Endpoint


@click.group(cls=Suggesting, no_args_is_help=False)
def access() -> None:
    """Allow and deny: who may do what to which topics and groups.

    What no rule allows is denied, and a rule that denies wins. NAME is a principal, or * for all who have
    proved who they are. PATTERN is a name, or the beginning of names followed by *.

    With --data-dir in a data folder, also beside a running broker, which knows of it within a second;
    with --server at a broker, which asks for the right to administer rules: admin --topic __access.
    """


def rule_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """The words of a rule, and where it is changed."""
    for decorate in (
        place_options,
        json_option,
        click.option("--group", metavar="PATTERN", help="To these groups."),
        click.option("--topic", metavar="PATTERN", help="To these topics."),
        click.argument("action", type=click.Choice(list(map(str, Action)))),
        click.argument("name"),
    ):
        command = decorate(command)
    return command


def _rule(name: str, action: str, topic: str | None, group: str | None, *, allow: bool) -> Rule:
    if (topic is None) == (group is None):
        raise click.UsageError("give --topic or --group, one of them", click.get_current_context())
    with explained():
        if topic is not None:
            return checked_rule(name, action, Resource.TOPIC, topic, allow=allow)
        return checked_rule(name, action, Resource.GROUP, group or "", allow=allow)


def _change(put: Sequence[Rule], drop: Sequence[Rule], data_dir: Path, server: Endpoint) -> int:
    folder = chosen_folder(data_dir)

    async def at_broker() -> int:
        async with admin(server) as broker:
            return await broker.change_access(put, drop)

    if folder is None:
        return run(at_broker())
    with explained(), closing(opened(folder, make=bool(put))) as file:
        return int(file.change_rules(put, drop, LIMITS.rules_max))


def _put(rule: Rule, data_dir: Path, server: Endpoint, *, as_json: bool) -> None:
    _change([rule], [], data_dir, server)
    if as_json:
        print_json(_shown(rule))
    else:
        click.echo(str(rule))


@access.command()
@rule_arguments
def allow(
    name: str,
    action: str,
    *,
    topic: str | None,
    group: str | None,
    as_json: bool,
    data_dir: Path,
    server: Endpoint,
) -> None:
    """Allow NAME to read, write or administer topics, or to read, be in or administer groups."""
    _put(_rule(name, action, topic, group, allow=True), data_dir, server, as_json=as_json)


@access.command()
@rule_arguments
def deny(
    name: str,
    action: str,
    *,
    topic: str | None,
    group: str | None,
    as_json: bool,
    data_dir: Path,
    server: Endpoint,
) -> None:
    """Deny NAME that, whatever allows it."""
    _put(_rule(name, action, topic, group, allow=False), data_dir, server, as_json=as_json)


@access.command()
@rule_arguments
def forget(
    name: str,
    action: str,
    *,
    topic: str | None,
    group: str | None,
    as_json: bool,
    data_dir: Path,
    server: Endpoint,
) -> None:
    """Take a rule back, whether it allows or denies."""
    rule = _rule(name, action, topic, group, allow=True)
    if not _change([], [rule], data_dir, server):
        raise click.ClickException(f"there is no rule about {' '.join(str(rule).split()[1:])}")
    if as_json:
        print_json({"forgotten": 1})
    else:
        click.echo(f"forgot the rule about {' '.join(str(rule).split()[1:])}")


@access.command("list")
@click.argument("name", default="")
@json_option
@place_options
def list_(name: str, *, as_json: bool, data_dir: Path, server: Endpoint) -> None:
    """List rules, about the principal NAME or all of them."""
    folder = chosen_folder(data_dir)

    async def at_broker() -> Sequence[Rule]:
        async with admin(server) as broker:
            return await broker.list_access(name)

    if folder is None:
        found = run(at_broker())
    else:
        with explained(), closing(opened(folder)) as file:
            found = [rule for rule in file.load().rules if name in ("", rule.principal)]
    if as_json:
        print_json([_shown(rule) for rule in found])
    else:
        rows = [
            ("allow" if of.allow else "deny", of.principal, of.action, of.resource, of.pattern)
            for of in found
        ]
        print_table(["rule", "principal", "action", "resource", "pattern"], rows)


def _shown(rule: Rule) -> dict[str, object]:
    shown = rule._asdict()
    return {"rule": "allow" if shown.pop("allow") else "deny", **shown}

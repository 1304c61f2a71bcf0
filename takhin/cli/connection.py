"""How the client commands reach a broker, and what they say when that fails. It knows no command."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from takhin.cli.signals import ending
from takhin.cli.streams import OutputError
from takhin.client import Admin, Retry
from takhin.client.errors import UnreachableError
from takhin.config import SERVER_VARIABLE
from takhin.errors import TakhinError
from takhin.settings import INT32_MAX, Settings, split_address
from takhin.wire.compression import ZSTD

T = TypeVar("T")

# What the client logs would come between a command's own lines. The command itself tells the errors.
logging.getLogger("takhin.client").addHandler(logging.NullHandler())

ANSWER_MS_MAX = 60_000
"""How long a command waits for an answer. Not an option: Ctrl-C ends a wait that is too long."""

DEFAULT_SERVER = Settings().listen[0]

COMPLETION_MS_MAX = 2_000
"""How long Tab waits for names. A person does not wait longer."""


def _checked_address(_context: click.Context, _parameter: click.Parameter, address: str) -> str:
    try:
        _, port = split_address(address)
    except ValueError as error:
        raise click.BadParameter(f"must be {error}, not {address!r}") from None
    if port == 0:
        raise click.BadParameter("port 0 is for brokers only; give the port that the broker took")
    return address


server_option = click.option(
    "--server",
    metavar="HOST:PORT",
    envvar=SERVER_VARIABLE,
    default=DEFAULT_SERVER,
    callback=_checked_address,
    help=f"The broker's address.  [default: {DEFAULT_SERVER}; variable: {SERVER_VARIABLE}]",
)
compression_option = click.option(
    "--compression", type=click.Choice([ZSTD]), help="Compress records on their way: for slow links."
)
partition_option = click.option(
    "-p", "--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="This partition only."
)


def _offered(names: Callable[[Admin], Awaitable[Iterable[str]]]) -> Callable[..., list[str]]:
    """A completer that offers names that the broker knows, or nothing if no broker answers."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        server = context.params.get("server") or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER

        async def asked() -> Iterable[str]:
            async with Admin(server, timeout_ms=COMPLETION_MS_MAX, retry=Retry(attempts_max=1)) as broker:
                return await names(broker)

        try:
            return [name for name in asyncio.run(asked()) if name.startswith(incomplete)]
        except TakhinError:
            return []

    return complete


async def _groups(broker: Admin) -> list[str]:
    return [group.group_id for group in await broker.list_groups()]


topics_offered = _offered(Admin.list_topics)
groups_offered = _offered(_groups)
topics_argument = click.argument("topics", nargs=-1, metavar="TOPIC...", shell_complete=topics_offered)
topic_argument = click.argument("topic", shell_complete=topics_offered)
group_argument = click.argument("group", shell_complete=groups_offered)


def admin(server: str, *, timeout_ms: int = ANSWER_MS_MAX) -> Admin:
    """An Admin that does not retry. timeout_ms: how long an answer may take."""
    return Admin(server, timeout_ms=timeout_ms, retry=Retry(attempts_max=1))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result; errors are raised as by `explained`."""
    with explained():
        return ending.run(work)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the client's errors, and those of reading, into a ClickException with a sentence."""
    try:
        yield
    except UnreachableError as error:
        raise click.ClickException(
            f"{error}; start one with `takhin serve`, or name another with --server or {SERVER_VARIABLE}"
        ) from error
    except TakhinError as error:
        raise click.ClickException(str(error)) from error
    except (BrokenPipeError, OutputError):  # main() handles them
        raise
    except OSError as error:
        raise click.ClickException(unreadable(error)) from error


def unreadable(error: OSError) -> str:
    """The sentence for an error of reading stdin or a file."""
    return f"cannot read the input: {error.strerror}"

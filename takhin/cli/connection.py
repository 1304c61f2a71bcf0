"""How the client commands reach a broker, and what they say when that fails. It knows no command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from takhin.cli.signals import ending
from takhin.cli.streams import OutputError
from takhin.client import Admin, Retry
from takhin.client.contexts import DEFAULT_SERVER, Context, Endpoint, endpoint
from takhin.client.errors import HandshakeError, UnreachableError
from takhin.client.handshakes import MISSING
from takhin.config import SERVER_VARIABLE
from takhin.errors import TakhinError, UnauthenticatedError
from takhin.settings import INT32_MAX
from takhin.settings.security import UNIX, listen_address
from takhin.wire.compression import ZSTD

T = TypeVar("T")

# What the client logs would come between a command's own lines. The command itself tells the errors.
logging.getLogger("takhin.client").addHandler(logging.NullHandler())

ANSWER_MS_MAX = 60_000
"""How long a command waits for an answer. Not an option: Ctrl-C ends a wait that is too long."""

COMPLETION_MS_MAX = 2_000
"""How long Tab waits for names. A person does not wait longer."""


SEEN_BY_ALL = (
    "a token on the command line can be read by everybody on this machine: put it into a file, and give "
    "--token-file FILE, TAKHIN_TOKEN_FILE, or a context"
)

HANDSHAKE_ADVICE = {
    "SERVER_AUTHORITY": " (give its --ca)",
    "SERVER_WANTS_TLS": " (give --tls, or --ca)",
    MISSING: " (give --cert and --cert-key)",
}
"""What the command line has against a reason; it ends the sentence."""


def _checked_server(_context: click.Context, _parameter: click.Parameter, server: str | None) -> str | None:
    if server is None:
        return None
    try:
        address = listen_address(server)
    except ValueError as error:
        raise click.BadParameter(f"must be {error}, not {server!r}") from None
    if address.kind != UNIX and address.port == 0:
        raise click.BadParameter("port 0 is for brokers only; give the port that the broker took")
    return server


def refused_token(_context: click.Context, _parameter: click.Parameter, token: str | None) -> None:
    """Refuse a token on the command line, without repeating it."""
    if token is not None:
        raise click.ClickException(SEEN_BY_ALL)


_PATH = click.Path(path_type=Path)
# What they are called in a function must be none of a command's own names: `produce` has a key, too.
_SERVER_OPTIONS = {
    "server": click.option(
        "--server",
        metavar="ADDRESS",
        callback=_checked_server,
        help=f"The broker: HOST:PORT, tls://HOST:PORT or unix:PATH.  [default: {DEFAULT_SERVER}; variable: "
        f"{SERVER_VARIABLE}]",
    ),
    "broker_context": click.option(
        "--context",
        "broker_context",
        metavar="NAME",
        help="A broker by its name: see `takhin context`.  [variable: TAKHIN_CONTEXT]",
    ),
    "broker_tls": click.option(
        "--tls/--no-tls", "broker_tls", default=None, help="Use TLS, or do not.  [variable: TAKHIN_TLS]"
    ),
    "broker_ca": click.option(
        "--ca",
        "broker_ca",
        type=_PATH,
        metavar="FILE",
        help="Authorities to trust, in PEM; implies --tls.  [variable: TAKHIN_CA]",
    ),
    "broker_cert": click.option(
        "--cert",
        "broker_cert",
        type=_PATH,
        metavar="FILE",
        help="Your certificate, in PEM; implies --tls.  [variable: TAKHIN_CERT]",
    ),
    "broker_key": click.option(
        "--cert-key",
        "broker_key",
        type=_PATH,
        metavar="FILE",
        help="The key of that certificate.  [variable: TAKHIN_KEY]",
    ),
    "broker_token_file": click.option(
        "--token-file",
        "broker_token_file",
        type=_PATH,
        metavar="FILE",
        help="The file of your token.  [variables: TAKHIN_TOKEN_FILE, TAKHIN_TOKEN]",
    ),
    "broker_token": click.option(
        "--token", "broker_token", hidden=True, expose_value=False, callback=refused_token
    ),
}


def server_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that say which broker is meant. The command gets an Endpoint as `server`."""

    @wraps(command)
    def with_endpoint(*args: Any, **parameters: Any) -> T:
        chosen = _chosen(click.get_current_context(), parameters)
        for name in _SERVER_OPTIONS:
            parameters.pop(name, None)
        return command(*args, server=chosen, **parameters)

    for option in reversed(_SERVER_OPTIONS.values()):
        with_endpoint = option(with_endpoint)
    return with_endpoint


def _chosen(context: click.Context, parameters: Mapping[str, Any]) -> Endpoint:
    """The broker that these parameters mean, with what the environment and the contexts file say."""
    name = parameters.get("broker_context") or context.find_root().params.get("context")
    given = Context(
        server=parameters.get("server"),
        tls=parameters.get("broker_tls"),
        ca=parameters.get("broker_ca"),
        cert=parameters.get("broker_cert"),
        key=parameters.get("broker_key"),
        token_file=parameters.get("broker_token_file"),
    )
    with explained():
        return endpoint(name, given=given)


compression_option = click.option(
    "--compression", type=click.Choice([ZSTD]), help="Compress records on their way: for slow links."
)
partition_option = click.option(
    "-p", "--partition", type=click.IntRange(0, INT32_MAX), metavar="N", help="This partition only."
)


def _offered(names: Callable[[Admin], Awaitable[Iterable[str]]]) -> Callable[..., list[str]]:
    """A completer that offers names that the broker knows, or nothing if no broker answers."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:

        async def asked() -> Iterable[str]:
            async with admin(_chosen(context, context.params), timeout_ms=COMPLETION_MS_MAX) as broker:
                return await names(broker)

        try:
            return [name for name in asyncio.run(asked()) if name.startswith(incomplete)]
        except (TakhinError, click.ClickException):
            return []

    return complete


async def _groups(broker: Admin) -> list[str]:
    return [group.group_id for group in await broker.list_groups()]


topics_offered = _offered(Admin.list_topics)
groups_offered = _offered(_groups)
topics_argument = click.argument("topics", nargs=-1, metavar="TOPIC...", shell_complete=topics_offered)
topic_argument = click.argument("topic", shell_complete=topics_offered)
group_argument = click.argument("group", shell_complete=groups_offered)


def admin(server: Endpoint, *, timeout_ms: int = ANSWER_MS_MAX) -> Admin:
    """An Admin that does not retry. timeout_ms: how long an answer may take."""
    once = Retry(attempts_max=1)
    return Admin(server.server, timeout_ms=timeout_ms, **server.credentials, retry=once)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result; errors are raised as by `explained`."""
    with explained():
        return ending.run(work)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the client's errors, and those of reading, into a ClickException with a sentence."""
    try:
        yield
    except HandshakeError as error:
        advice = HANDSHAKE_ADVICE.get(error.details["reason"], "")
        raise click.ClickException(f"{error}{advice}") from error
    except UnauthenticatedError as error:
        raise click.ClickException(
            f"{error}; give a token by --token-file, TAKHIN_TOKEN_FILE or a context, or --cert"
        ) from error
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

"""The `takhin` command: its subcommands, and how it reports errors.

It owns the rule that every error is one line on stderr, and the exit codes.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from takhin.cli.names import Suggesting
from takhin.cli.signals import ending
from takhin.cli.streams import whole_streams
from takhin.errors import CopyError, QueryError, StartupError

# Exit codes. Scripts rely on them: docs/commands.md lists them.
CANNOT_START = 2
FAILED = 1

COMMANDS = (
    "serve",
    "topics",
    "produce",
    "consume",
    "groups",
    "tokens",
    "access",
    "health",
    "top",
    "offsets",
    "sql",
    "bench",
    "backup",
    "verify",
    "restore",
    "recover",
    "doctor",
    "context",
    "completion",
)
"""The commands in the order of --help; each is in the module of its name, imported when it is used."""

COMPLETION_VARIABLE = "_TAKHIN_COMPLETE"
"""The name that click derives from the program's."""


class _Commands(Suggesting):
    """Imports a command only when it is used, because importing gRPC takes longer than most commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"takhin.cli.{cmd_name}"), cmd_name)
        return found if isinstance(found, click.Command) else None


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    epilog="Exit codes: 0 done, 1 failed or refused, 2 the broker cannot start, 130 interrupted (Ctrl-C), "
    "143 ended by SIGTERM.",
)
@click.version_option(package_name="takhin", message="%(prog)s %(version)s")
@click.option(
    "--context", metavar="NAME", help="The broker, for all commands that talk to one: see `takhin context`."
)
def cli(context: str | None) -> None:
    """Takhin, a durable message-streaming broker for one machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments (by default those of the process) name; return its exit code."""
    if COMPLETION_VARIABLE in os.environ:  # a shell asks what could be typed; see completion.py
        return shell_complete(cli, {}, "takhin", COMPLETION_VARIABLE, os.environ[COMPLETION_VARIABLE])
    try:
        with whole_streams(), ending.handled():
            code = _run(sys.argv[1:] if arguments is None else arguments)
            if code == 0 and ending.number is not None:  # it was raised where it could only be printed
                code = ending.exit_code()
    except KeyboardInterrupt:  # just before the command began, or just after it
        code = ending.exit_code()
    except Exception:
        if ending.number is None:
            raise
        code = ending.exit_code()  # within C code an interrupt may come out as something else: ImportError
    if ending.number is not None:
        # After a KeyboardInterrupt within an exec(), such as that of a dataclass, Python would kill itself by
        # SIGINT in the end, although it was caught. The next exec() that ends well makes it forget that.
        exec("")  # noqa: S102
    # An error's traceback keeps gRPC's call in a reference cycle. Python would collect it at exit, after it
    # has stopped gRPC's threads wherever they were, and __del__ would wait for ever for a lock of theirs.
    gc.collect()
    return code


def _run(arguments: Sequence[str]) -> int:
    failed = CANNOT_START if arguments[:1] == ["serve"] else FAILED
    try:
        _check_utf8(arguments)
        # Not cli.main(), which handles closed pipes and prints errors in its own way.
        with cli.make_context("takhin", list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has had enough: not an error
        pass
    except KeyboardInterrupt:
        return ending.exit_code()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "takhin"
        return _complain(f"{error.format_message()} (see {path} --help)", failed)
    except (click.ClickException, CopyError, QueryError, StartupError, OSError) as error:
        return _complain(str(error), failed)
    return 0


def _check_utf8(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.ClickException(f"the argument {argument!a} is not UTF-8") from None


def _complain(sentence: str, code: int) -> int:
    print(f"takhin: {' '.join(sentence.splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
